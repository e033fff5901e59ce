//! The routes of the HTTP listeners that belong to no domain: health and metrics. Other routes,
//! such as the WebSocket, are merged by `server`; `origins` says which web pages may use them,
//! `rest` reads what they leave of a request, and `serve` speaks HTTP on accepted connections.

use std::{sync::Arc, time::Instant};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    lifecycle::Tasks,
    limits::READY_DEADLINE,
    store::{self, Store},
    telemetry::Metrics,
};

pub mod files;
mod origins;
mod request;
mod rest;
mod serve;
mod stall;

pub use origins::Origins;
pub use request::with_request_ids;
pub use rest::read_rest;
pub use serve::serve;

/// `/healthz` and `/readyz`; the server is not ready once `draining` is cancelled.
pub fn health_routes(store: Store, draining: CancellationToken, tasks: Tasks) -> Router {
    let readiness = Arc::new(Readiness {
        store,
        draining,
        tasks,
        probe: Mutex::new(None),
    });
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(readiness)
}

/// `/metrics` in the OpenMetrics text format.
pub fn metrics_routes(metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/metrics", get(render))
        .with_state(metrics)
}

async fn render(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, OPEN_METRICS)], metrics.render())
}

async fn ready(State(readiness): State<Arc<Readiness>>) -> (StatusCode, &'static str) {
    if readiness.draining.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else if readiness.database_answers().await {
        (StatusCode::OK, "ready\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the database does not answer\n",
        )
    }
}

/// Finds out whether the server can do its work.
struct Readiness {
    store: Store,
    draining: CancellationToken,
    tasks: Tasks,
    probe: Mutex<Option<Probe>>,
}

/// One query that all who ask meanwhile share, so that probes do not press on a slow database.
struct Probe {
    begun: Instant,
    answer: Shared<BoxFuture<'static, bool>>,
}

impl Readiness {
    async fn database_answers(&self) -> bool {
        let answer = {
            let mut probe = self.probe.lock().await;
            match &*probe {
                Some(running) if running.is_fresh() => running.answer.clone(),
                _ => probe.insert(self.begin_probe()).answer.clone(),
            }
        };
        answer.await
    }

    /// The query runs in its own task: it ends in time although those who asked have gone.
    fn begin_probe(&self) -> Probe {
        let store = self.store.clone();
        let query = self.tasks.spawn(async move {
            // Beginning to write shows more than reading, which a cache may answer.
            let answers = async {
                let tx = store.begin().await?;
                store::cluster::epoch(tx.conn()).await
            };
            matches!(
                tokio::time::timeout(READY_DEADLINE, answers).await,
                Ok(Ok(_))
            )
        });
        Probe {
            begun: Instant::now(),
            answer: query
                .map(|answered| answered.unwrap_or(false))
                .boxed()
                .shared(),
        }
    }
}

impl Probe {
    /// True while the query runs, or would still run had anybody waited for it.
    fn is_fresh(&self) -> bool {
        self.answer.peek().is_none() && self.begun.elapsed() < READY_DEADLINE
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::{body::Body, http::Request};
    use tower::ServiceExt as _;

    use super::*;
    use crate::config::Config;

    async fn status(routes: &Router, path: &str) -> StatusCode {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let answer = routes.clone().oneshot(request).await;
        answer.expect("an answer").status()
    }

    /// Asks again where the machine was too busy to answer within [`READY_DEADLINE`].
    async fn until_true(mut ask: impl AsyncFnMut() -> bool) {
        let asking = async { while !ask().await {} };
        let in_time = tokio::time::timeout(Duration::from_secs(60), asking).await;
        in_time.expect("it is true");
    }

    async fn routes(folder: &tempfile::TempDir) -> (Router, Store, CancellationToken) {
        let mut database = Config::default().database;
        database.url = format!("sqlite://{}/im.db", folder.path().display());
        let store = Store::open(&database).await.expect("a database");
        store.migrate().await.expect("a schema");
        let draining = CancellationToken::new();
        let routes = health_routes(store.clone(), draining.clone(), Tasks::default());
        (routes, store, draining)
    }

    #[tokio::test]
    async fn readiness_follows_the_database_and_health_does_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let (routes, store, _draining) = routes(&folder).await;
        until_true(async || status(&routes, "/readyz").await == StatusCode::OK).await;
        store.close().await;
        assert_eq!(
            status(&routes, "/readyz").await,
            StatusCode::SERVICE_UNAVAILABLE
        );
        assert_eq!(status(&routes, "/healthz").await, StatusCode::OK);
    }

    #[tokio::test]
    async fn a_draining_server_is_not_ready() {
        let folder = tempfile::tempdir().expect("a folder");
        let (routes, _store, draining) = routes(&folder).await;
        draining.cancel();
        assert_eq!(
            status(&routes, "/readyz").await,
            StatusCode::SERVICE_UNAVAILABLE
        );
    }

    #[tokio::test]
    async fn concurrent_probes_share_one_query() {
        let folder = tempfile::tempdir().expect("a folder");
        let (_, store, draining) = routes(&folder).await;
        let readiness = Readiness {
            store,
            draining,
            tasks: Tasks::default(),
            probe: Mutex::new(None),
        };
        let begun = || async {
            let probe = readiness.probe.lock().await;
            probe.as_ref().map(|probe| probe.begun)
        };
        let asked = || async { (readiness.database_answers().await, begun().await) };
        let mut shared = None;
        until_true(async || {
            let (one, other) = tokio::join!(asked(), asked());
            assert_eq!(one, other);
            shared = one.1;
            one.0
        })
        .await;
        until_true(async || readiness.database_answers().await).await;
        assert_ne!(begun().await, shared);
    }
}
