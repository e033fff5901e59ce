//! `im serve`: from a valid configuration to a running server, and what the log tells of it.

use std::convert::Infallible;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    config::{self, Config},
    error::Result,
    lifecycle::Shutdown,
    limits::OPEN_FILES_LOW,
    listen::Addresses,
    server::Server,
    telemetry,
};

/// Runs the server until it was asked to stop and has drained.
///
/// # Errors
/// An internal error when the server cannot start, crashes, or its drain is cut off.
pub(super) async fn serve(config: Config, origin: &config::Origin) -> Result<()> {
    let telemetry = telemetry::init(&config)?;
    let result = run(config, origin).await;
    telemetry.finish().await;
    result
}

async fn run(config: Config, origin: &config::Origin) -> Result<()> {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), configuration = %origin, "starting");
    raise_open_files();
    let shutdown = Shutdown::default();
    tokio::select! {
        biased;
        result = start_and_run(config, shutdown.clone()) => result,
        signals = shutdown.on_signals() => signals.map(|never: Infallible| match never {}),
    }
}

async fn start_and_run(config: Config, shutdown: Shutdown) -> Result<()> {
    let database = config::without_secrets(&config.database.url);
    let test_code = !config.sign_in.test_code.is_empty();
    let server = tokio::select! {
        server = Server::bind(config) => server?,
        () = shutdown.requested() => return Ok(()),
    };
    announce(&server.addresses(), &database);
    if test_code {
        tracing::warn!(
            "sign_in.test_code is set: anybody can sign in as anybody, never do so in production"
        );
    }
    server.run(shutdown).await?;
    tracing::info!("stopped");
    Ok(())
}

fn announce(addresses: &Addresses, database: &str) {
    tracing::info!(
        tcp = %addresses.tcp,
        http = %addresses.http,
        grpc = %addresses.grpc,
        internal = %addresses.internal,
        metrics = %addresses.metrics,
        database,
        "listening"
    );
}

/// Takes as many file descriptors as the system lets this process have: each connection needs one.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
    let open_files_max = match raised {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    match open_files_max {
        Some(open_files_max) if open_files_max < OPEN_FILES_LOW => tracing::warn!(
            open_files_max,
            "few open files are allowed, each connection takes one: raise the limit (ulimit -Hn)"
        ),
        _ => tracing::debug!(open_files_max, "open files allowed"),
    }
}
