//! countersign: authenticates plain HTTP requests to Amazon API Gateway, from a sidecar on localhost.

fn main() -> std::process::ExitCode {
    countersign::cli::main()
}
