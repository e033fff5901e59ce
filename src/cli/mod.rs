//! The command line: what `im` can be told to do, how it answers, and its exit codes. Results and
//! log lines go to stdout, an error is one line on stderr.

use std::{fmt, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand, error::ErrorKind};

use crate::{
    bench,
    config::{self, Loaded},
    error::{Error, Result, ResultExt},
    limits::RUNTIME_LINGER_MAX,
    store::{self, Store},
};

mod healthcheck;
mod serve;

/// Exit code: the command failed.
const FAILED: u8 = 1;
/// Exit code: the command line or the configuration is wrong.
const BAD_USAGE: u8 = 2;

/// An instant-messaging server.
#[derive(Debug, Parser)]
#[command(
    name = "im",
    version,
    max_term_width = 100,
    after_help = "Every key of the configuration can be set by environment: IM_<SECTION>__<KEY>, as \
                  in\nIM_DATABASE__URL=sqlite://data/im.db. \
                  Exit codes: 0 done, 1 failed, 2 bad usage or configuration."
)]
struct Args {
    /// The configuration file; without it `im.toml` in the working folder, if there is one, and
    /// else the built-in defaults
    #[arg(
        long,
        value_name = "FILE",
        env = "IM_CONFIG",
        hide_env_values = true,
        global = true
    )]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the server until SIGTERM or Ctrl-C
    ///
    /// The first signal drains: no new work is taken, devices are told to come back later, and
    /// what is under way is finished within delivery.drain_timeout_s. A second one ends it at once.
    Serve,
    /// Brings the database's schema up to this version; `serve` does so too
    Migrate,
    /// Says whether the configuration is fine, and where it came from
    CheckConfig,
    /// The database's epoch, by which devices notice that it was restored from a backup
    #[command(subcommand)]
    Epoch(Epoch),
    /// Asks a running server on this machine whether it is ready: exit code 0 or 1
    ///
    /// It is GET /readyz on the address of listen.http.
    Healthcheck,
    /// Puts a load on a running server over its real sockets, and measures
    ///
    /// The server must run with sign_in.test_code set, on a database of its own.
    Bench(Box<bench::Args>),
}

#[derive(Debug, Subcommand)]
enum Epoch {
    /// Gives the database a new epoch: to be done after a restore, before the server starts again
    ///
    /// Devices then sync from what the database holds. On SQLite the server must be stopped.
    Renew,
}

/// Does what the command line says.
pub fn run() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return usage(&error),
    };
    let loaded = match config::load(args.config.as_deref()) {
        Ok(loaded) => loaded,
        Err(error) => return failure(BAD_USAGE, &error),
    };
    match run_in_runtime(args.command, loaded) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure(FAILED, &error),
    }
}

fn run_in_runtime(command: Command, loaded: Loaded) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .internal("start the runtime")?;
    let result = runtime.block_on(execute(command, loaded));
    runtime.shutdown_timeout(RUNTIME_LINGER_MAX);
    result
}

async fn execute(command: Command, Loaded { config, origin }: Loaded) -> Result<()> {
    match command {
        Command::Serve => serve::serve(config, &origin).await,
        Command::Migrate => migrate(&config.database).await,
        Command::CheckConfig => print(format_args!("{origin}: the configuration is fine")),
        Command::Epoch(Epoch::Renew) => renew_epoch(&config.database).await,
        Command::Healthcheck => healthcheck::ask(config.listen.http).await,
        Command::Bench(args) => bench::run(*args).await,
    }
}

async fn migrate(database: &config::Database) -> Result<()> {
    let store = Store::open(database).await?;
    store.migrate().await?;
    store.close().await;
    print(format_args!(
        "{}: the schema is up to date",
        config::without_secrets(&database.url)
    ))
}

async fn renew_epoch(database: &config::Database) -> Result<()> {
    // A new database where a restored one was meant would look like success.
    if !Store::exists(database) {
        return Err(Error::internal(format!(
            "database.url: {} does not exist",
            config::without_secrets(&database.url)
        )));
    }
    let store = Store::open(database).await?;
    // A restored database may be older than this version.
    store.migrate().await?;
    let epoch = store::cluster::renew_epoch(&store).await?;
    store.close().await;
    print(format_args!("{epoch}"))
}

/// Writes a result; `println!` would panic where nobody reads any more.
fn print(line: fmt::Arguments<'_>) -> Result<()> {
    use std::io::Write as _;
    writeln!(std::io::stdout(), "{line}").internal("write to stdout")
}

/// Shows help and version as they are, anything else as one line.
fn usage(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Nobody is left to be told that the output was closed.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(BAD_USAGE)
        }
        _ => failure(BAD_USAGE, &one_line(&error.render().to_string())),
    }
}

/// Clap's message without its heading and its usage paragraph.
fn one_line(rendered: &str) -> String {
    let message = rendered.split("\n\nUsage:").next().unwrap_or(rendered);
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let words: Vec<&str> = message.split_whitespace().collect();
    let sentence = words.join(" ");
    format!(
        "{}; see `im --help`",
        sentence
            .trim_end_matches("For more information, try '--help'.")
            .trim()
    )
}

fn failure(code: u8, error: &impl fmt::Display) -> ExitCode {
    eprintln!("im: {}", error.to_string().replace('\n', " "));
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn refusal(arguments: &[&str]) -> String {
        let error = Args::try_parse_from(arguments).expect_err("refused");
        one_line(&error.render().to_string())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn usage_errors_are_one_line() {
        assert_eq!(
            refusal(&["im", "serve", "--port", "1"]),
            "unexpected argument '--port' found; see `im --help`"
        );
        for arguments in [
            &["im", "serv"][..],
            &["im", "serve", "--config"],
            &["im", "epoch", "x"],
        ] {
            let message = refusal(arguments);
            assert!(
                !message.contains('\n') && !message.contains("Usage"),
                "{message}"
            );
        }
    }
}
