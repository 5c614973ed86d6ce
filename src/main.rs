//! Parses the command line, hands over, and turns an error into one line and an exit code.

use std::process::ExitCode;

use clap::Parser;
use model_asynch::cli::{self, Cli};

/// Many small, short-lived buffers on several threads are what this allocator is good at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("model-asynch: {error:#}");
            cli::exit_code(&error)
        }
    }
}
