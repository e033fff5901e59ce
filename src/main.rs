//! The binary: what has to be decided once per process, then the command line.

use std::process::ExitCode;

/// Returns memory to the system and does not fragment under many connections; its settings stand
/// in `.cargo/config.toml`.
#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // Fails only where a provider is installed already, which is then used.
    let _ = rustls::crypto::ring::default_provider().install_default();
    im::cli::run()
}
