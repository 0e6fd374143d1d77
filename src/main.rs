//! countersign: authenticates plain HTTP requests to Amazon API Gateway, from a sidecar on localhost.

#[cfg(all(feature = "jemalloc", target_os = "linux"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    countersign::cli::main()
}
