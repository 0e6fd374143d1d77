//! The binary itself: arguments, environment, signals, exit codes, and what it prints.

#[cfg(test)]
mod ca;
#[cfg(test)]
mod causes;
#[cfg(test)]
mod commands;
#[cfg(test)]
mod credentials;
#[cfg(test)]
mod exec;
#[cfg(test)]
mod init;
#[cfg(test)]
mod keeping;
#[cfg(test)]
mod local;
#[cfg(test)]
mod migrate;
#[cfg(test)]
mod process;
#[cfg(test)]
mod run;
