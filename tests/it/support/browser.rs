//! A real browser without a window, and the pages it is given.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::{get, post},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};

use super::wait::PATIENCE;

/// A web server with an origin of its own: the repository's `examples/browser`, and at `/` an empty
/// page with one script, which reports to `/result`.
pub struct Pages {
    address: SocketAddr,
    results: mpsc::Receiver<Value>,
    serving: JoinHandle<()>,
}

impl Pages {
    /// Serves `script`, a JavaScript module.
    pub async fn serve(script: &'static str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (reports, results) = mpsc::channel(1);
        let page = "<!doctype html><body><script type=module src=/test.js></script>";
        let routes = Router::new()
            .route("/", get(async move || Html(page)))
            .route("/test.js", get(async move || source("test.js", script)))
            .route("/result", post(report).with_state(reports))
            .route("/{file}", get(example));
        let serving = tokio::spawn(async move {
            axum::serve(listener, routes).await.expect("it serves");
        });
        Self {
            address,
            results,
            serving,
        }
    }

    /// What browsers call the place these pages are from.
    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Opens the page with `parameters` in a browser, and waits for what its script reports.
    pub async fn open(&mut self, parameters: &[(&str, &str)]) -> Value {
        let mut url = reqwest::Url::parse(&self.origin()).expect("a URL");
        url.query_pairs_mut().extend_pairs(parameters);
        let browser = Browser::open(url.as_str());
        match tokio::time::timeout(PATIENCE, self.results.recv()).await {
            Ok(result) => result.expect("the pages are served"),
            Err(_) => panic!(
                "the page reported nothing within {PATIENCE:?}; the browser:\n{}",
                browser.log()
            ),
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn report(State(reports): State<mpsc::Sender<Value>>, Json(result): Json<Value>) {
    reports.send(result).await.expect("the test waits");
}

async fn example(axum::extract::Path(name): axum::extract::Path<String>) -> Response {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/browser");
    match fs::read_to_string(folder.join(&name)) {
        Ok(text) => source(&name, text),
        Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}

/// A file, which the browser runs only under the type of its kind.
fn source(name: &str, text: impl IntoResponse) -> Response {
    let kind = if name.ends_with(".js") {
        "text/javascript"
    } else {
        "text/html"
    };
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// Chromium, with a profile of its own; it is ended at drop.
struct Browser {
    process: Child,
    profile: TempDir,
}

impl Browser {
    fn open(url: &str) -> Self {
        let profile = tempfile::tempdir().expect("a folder");
        let log = File::create(profile.path().join("log")).expect("a file");
        let process = Command::new("chromium")
            .args(["--headless", "--no-sandbox", "--disable-gpu"])
            .args([
                "--disable-dev-shm-usage",
                "--disable-quic",
                "--no-first-run",
            ])
            .args(["--disable-background-networking", "--disable-sync"])
            .args(["--disable-component-update", "--disable-extensions"])
            .arg("--enable-logging=stderr")
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(url)
            .env("TMPDIR", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "chromium does not start, so this test cannot run ({error}): `tests/run` \
                     installs it, or `apt-get install chromium`"
                )
            });
        Self { process, profile }
    }

    /// What it said, the page's console included, but not of the desktop that is not there.
    fn log(&self) -> String {
        let log = fs::read(self.profile.path().join("log")).expect("its log");
        let log = String::from_utf8_lossy(&log);
        let lines = log.lines().filter(|line| !line.contains("dbus"));
        lines.collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Killed, it would leave its helpers to end by themselves, and they write to the profile.
        let id = Pid::from_child(&self.process);
        kill_process(id, Signal::TERM).expect("it was not waited for");
        let asked = Instant::now();
        while self.process.try_wait().expect("wait for a child").is_none() {
            if asked.elapsed() > PATIENCE {
                self.process.kill().expect("kill -9");
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}
