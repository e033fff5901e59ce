//! Delivering what stands in the outbox: reads it, posts what the [plan](super::plan) says, deletes
//! what was taken. One task, so that nothing is read between posting and deleting that would be posted
//! again.
//!
//! What the process was about when it died is posted once more by whoever delivers next, under the
//! same ids.

use std::{pin::pin, sync::Arc};

use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use serde_json::json;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    Endpoint, attendance,
    body::{Told, body},
    plan::{Failure, Plan},
    scan::Scan,
    undelivered,
};
use crate::{
    clock::Clock,
    config::{self, seconds},
    error::Result,
    id::MessageId,
    limits::{
        INSTANCE_BEAT_INTERVAL, WARNING_INTERVAL, WEBHOOK_DATABASE_PAUSE, WEBHOOK_DELETE_DELAY,
        WEBHOOK_DELETES_MAX, WEBHOOK_LANE_EVENTS_MAX, WEBHOOK_PAGE_MAX, WEBHOOKS_IN_FLIGHT_MAX,
    },
    store::{
        self, Outcome, Store,
        outbox::{self, Kind, Outbox, Row},
    },
    telemetry::Metrics,
};

/// What delivering works with.
#[derive(Debug)]
pub struct Options {
    /// Where the events are.
    pub store: Store,
    /// Says when this instance has written one.
    pub outbox: Outbox,
    /// Who is online at this instance; `None` where nobody is told.
    pub attendance: Option<store::online::Attendance>,
    /// There is no other instance.
    pub is_alone: bool,
    /// What events age by.
    pub clock: Arc<dyn Clock>,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// Delivers events while it is this instance's duty.
#[derive(Debug)]
pub struct Delivery {
    options: Options,
    endpoint: Arc<Endpoint>,
    retry_for_ms: i64,
}

/// How an attempt to deliver an event ended.
struct Attempt {
    event: Row,
    outcome: std::result::Result<(), Refusal>,
}

/// Why an event was not taken.
enum Refusal {
    /// The database did not say what to post.
    Unread(store::Failure),
    /// The server did not take it.
    Server(String),
}

impl Delivery {
    /// Delivers as `config` says, whose URL is not empty.
    ///
    /// # Errors
    /// An internal error where the HTTP client cannot be set up.
    pub fn new(options: Options, config: &config::Webhooks) -> Result<Self> {
        let endpoint = Endpoint::new(
            ("webhooks.url", &config.url),
            &config.secret,
            seconds(config.timeout_s),
            Arc::clone(&options.clock),
        )?;
        Ok(Self {
            options,
            endpoint: Arc::new(endpoint),
            retry_for_ms: seconds(config.retry_for_h.saturating_mul(3_600)).as_millis() as i64,
        })
    }

    /// Delivers until `stop`, whenever it is this instance's duty.
    pub async fn run(self, stop: CancellationToken) {
        let mut duty = self.options.store.delivery_duty();
        let mut plan = Plan::default();
        while stop.run_until_cancelled(duty.taken()).await.is_some() {
            tracing::debug!("this instance delivers events");
            let work = async {
                tokio::join!(
                    Run::new(&self, &mut plan).go(),
                    undelivered::run(
                        &self.options.store,
                        &*self.options.clock,
                        &self.options.outbox
                    ),
                    attendance::strike_dead_off(&self.options),
                )
            };
            let ended = tokio::select! {
                _ = work => true,
                () = duty.lost() => false,
                () = stop.cancelled() => true,
            };
            self.options.metrics.webhook.oldest.set(0);
            // What was under way has been dropped, and is posted again; what was taken need not be.
            plan.start_over();
            if let Err(error) = delete_done(&self.options.store, &mut plan).await {
                tracing::debug!(%error, "events that were taken could not be deleted");
            }
            plan = Plan::default();
            if ended {
                return;
            }
        }
    }

    /// Posts an event. Success is an answer of 2xx; its body is not read.
    async fn attempt(&self, event: &Row) -> std::result::Result<(), Refusal> {
        let Some(kind) = Kind::from_column(event.kind) else {
            // In a rolling update the version that wrote it may deliver it yet.
            return Err(Refusal::Server(
                "this version does not know its kind".into(),
            ));
        };
        let composed = self.compose(event, kind).await;
        let Some((id, body)) = composed.map_err(Refusal::Unread)? else {
            tracing::warn!(
                event = event.id,
                "an event tells of what is not there, it is left out"
            );
            return Ok(());
        };
        match self.endpoint.post(&id, body).await {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(Refusal::Server(format!("it answers {}", answer.status()))),
            Err(error) => Err(Refusal::Server(in_words(&error))),
        }
    }

    /// The id and the body of an event; `None` when what it tells of is not there.
    async fn compose(&self, event: &Row, kind: Kind) -> Outcome<Option<(String, String)>> {
        let user = || event.owner_id.to_string();
        let data = match kind {
            Kind::UserOnline | Kind::UserOffline => json!({
                "user_id": user(),
                "device_id": event.device_id.to_string(),
            }),
            Kind::MessageSent | Kind::MessageUndelivered => {
                let reader = self.options.store.reader();
                let read = outbox::message(reader, MessageId(event.message_id));
                let Some(message) = store::attempt(read).await? else {
                    return Ok(None);
                };
                let message = Told::from(&message).json();
                match kind {
                    Kind::MessageUndelivered => json!({ "user_id": user(), "message": message }),
                    _ => json!({ "message": message }),
                }
            }
        };
        // The time tells apart what bore the same number before a restore.
        let id = format!("evt_{}_{}", event.id, event.created_at);
        Ok(Some((id, body(kind.name(), event.created_at, &data))))
    }
}

/// Deletes what was taken or given up.
async fn delete_done(store: &Store, plan: &mut Plan) -> Outcome<()> {
    let done: Vec<i64> = plan.done().collect();
    if !done.is_empty() {
        store::attempt(outbox::delete(store, &done)).await?;
        plan.deleted(&done);
    }
    Ok(())
}

/// Attempts that are under way, [bounded](WEBHOOKS_IN_FLIGHT_MAX).
type Attempts<'a> = FuturesUnordered<BoxFuture<'a, Attempt>>;

/// One time that it is this instance's duty.
struct Run<'a> {
    delivery: &'a Delivery,
    plan: &'a mut Plan,
    scan: Scan,
    /// When to delete what was taken.
    delete_at: Option<Instant>,
    /// When to look how old the oldest event is.
    age_at: Instant,
    warned_at: Option<Instant>,
}

impl<'a> Run<'a> {
    fn new(delivery: &'a Delivery, plan: &'a mut Plan) -> Self {
        let now = Instant::now();
        Self {
            delivery,
            plan,
            scan: Scan::from(now),
            delete_at: None,
            age_at: now,
            warned_at: None,
        }
    }

    async fn go(mut self) {
        let mut attempts = Attempts::new();
        loop {
            self.begin_attempts(&mut attempts);
            self.wait(&mut attempts).await;
            let (used, ended) = beside(&mut attempts, self.use_database()).await;
            for attempt in ended {
                self.conclude(attempt);
            }
            if let Err(error) = used {
                tracing::warn!(%error, "the outbox does not answer");
                let later = Instant::now() + WEBHOOK_DATABASE_PAUSE;
                self.scan.rest_until(later);
                self.delete_at = self.delete_at.map(|_| later);
            }
        }
    }

    /// Too many that could not be deleted would be posted again by whoever comes next.
    fn has_room(&self, attempts: &Attempts<'_>) -> bool {
        attempts.len() < WEBHOOKS_IN_FLIGHT_MAX && self.plan.done_count() < WEBHOOK_DELETES_MAX
    }

    fn begin_attempts(&mut self, attempts: &mut Attempts<'a>) {
        while self.has_room(attempts)
            && let Some(event) = self.plan.next(Instant::now())
        {
            let delivery = self.delivery;
            attempts.push(Box::pin(async move {
                let outcome = delivery.attempt(&event).await;
                Attempt { event, outcome }
            }));
        }
    }

    /// Waits until something is to be done.
    async fn wait(&mut self, attempts: &mut Attempts<'a>) {
        let has_room = self.has_room(attempts);
        let next = self.plan.wake_at().filter(|_| has_room);
        let wake_at = [self.delete_at, next].into_iter().flatten();
        let wake_at = wake_at.fold(self.scan.due(), Instant::min);
        tokio::select! {
            Some(attempt) = attempts.next() => self.conclude(attempt),
            () = self.delivery.options.outbox.filled() => self.scan.hurry(),
            () = sleep_until(wake_at) => {}
        }
    }

    fn conclude(&mut self, attempt: Attempt) {
        let Attempt { event, outcome } = attempt;
        let now = Instant::now();
        let metrics = &self.delivery.options.metrics.webhook;
        match outcome {
            Ok(()) => {
                metrics.delivered.inc();
                if self.plan.taken(event.owner_id, now) {
                    tracing::info!("the webhooks' server takes events again");
                }
            }
            Err(Refusal::Unread(error)) => {
                tracing::debug!(%error, event = event.id, "an event could not be read");
                let later = now + WEBHOOK_DATABASE_PAUSE;
                self.plan.unread(event.owner_id, later);
            }
            Err(Refusal::Server(why)) => {
                metrics.failed.inc();
                self.refused(&event, &why, now);
            }
        }
        if self.plan.has_room() {
            self.scan.go_on();
        }
        if self.plan.done_count() > 0 {
            self.delete_at.get_or_insert(now + WEBHOOK_DELETE_DELAY);
        }
    }

    fn refused(&mut self, event: &Row, why: &str, now: Instant) {
        let horizon_ms = self.delivery.options.clock.now_ms() - self.delivery.retry_for_ms;
        match self.plan.failed(event.owner_id, now, horizon_ms) {
            Failure::GivenUp => {
                self.delivery.options.metrics.webhook.given_up.inc();
                let kind = Kind::from_column(event.kind).map_or("unknown", Kind::name);
                tracing::error!(event = event.id, kind, why, "an event is given up");
            }
            Failure::NowAway => {
                tracing::warn!(
                    why,
                    "the webhooks' server takes nothing, one at a time is tried"
                );
            }
            Failure::Again if self.plan.is_away() => {}
            Failure::Again => {
                let is_recent = |at: Instant| now < at + WARNING_INTERVAL;
                if !self.warned_at.is_some_and(is_recent) {
                    self.warned_at = Some(now);
                    tracing::warn!(event = event.id, why, "an event was not taken");
                }
            }
        }
    }

    /// Deletes what was taken, and reads what is new, as far as it is time for that.
    async fn use_database(&mut self) -> Outcome<()> {
        let store = &self.delivery.options.store;
        if self.delete_at.is_some_and(|at| at <= Instant::now()) {
            delete_done(store, self.plan).await?;
            self.delete_at = None;
        }
        // What is read of a lane must not be what was taken of it.
        if self.plan.done_count() == 0 {
            self.feed_lanes().await?;
        }
        self.scan.read(store, self.plan).await?;
        let now = Instant::now();
        if self.age_at <= now {
            self.age_at = now + INSTANCE_BEAT_INTERVAL;
            self.look_at_the_oldest().await?;
        }
        Ok(())
    }

    /// Reads on for those lanes that have come to the end of what was read of them.
    async fn feed_lanes(&mut self) -> Outcome<()> {
        let reader = self.delivery.options.store.reader();
        for owner in self.plan.hungry().to_vec() {
            let page = outbox::page(reader, Some(owner), 0, WEBHOOK_LANE_EVENTS_MAX as u64);
            let page = store::attempt(page).await?;
            self.plan.feed(owner, page, Instant::now());
        }
        Ok(())
    }

    /// Notes how old the oldest event is, and gives up those that are too old while the server is
    /// away: it would take hours to try each.
    async fn look_at_the_oldest(&mut self) -> Outcome<()> {
        let Options {
            store,
            clock,
            metrics,
            ..
        } = &self.delivery.options;
        let now_ms = clock.now_ms();
        let horizon_ms = now_ms - self.delivery.retry_for_ms;
        let (mut after, mut given_up) = (0, 0);
        loop {
            let max = if after == 0 { 1 } else { WEBHOOK_PAGE_MAX };
            let page = outbox::page(store.reader(), None, after, max as u64);
            let page = store::attempt(page).await?;
            if after == 0 {
                let age_ms = page.first().map_or(0, |oldest| now_ms - oldest.created_at);
                metrics.webhook.oldest.set(age_ms / 1_000);
            }
            let is_old = |event: &&Row| event.created_at <= horizon_ms;
            let old: Vec<&Row> = page.iter().filter(is_old).collect();
            let Some(last) = old.last().filter(|_| self.plan.is_away()) else {
                break;
            };
            after = last.id;
            let held = |event: &&&Row| !self.plan.holds(event);
            let old: Vec<i64> = old.iter().filter(held).map(|event| event.id).collect();
            store::attempt(outbox::delete(store, &old)).await?;
            given_up += old.len();
        }
        if given_up > 0 {
            metrics.webhook.given_up.inc_by(given_up as u64);
            tracing::error!(events = given_up, "events are given up, nobody took them");
        }
        Ok(())
    }
}

/// Does some `work` while attempts go on; what it gives, and the attempts that ended meanwhile. An
/// answer that comes while the database is slow would else be looked at when its time is over.
async fn beside<T>(
    attempts: &mut Attempts<'_>,
    work: impl Future<Output = T>,
) -> (T, Vec<Attempt>) {
    let mut work = pin!(work);
    let mut ended = Vec::new();
    loop {
        tokio::select! {
            done = &mut work => return (done, ended),
            Some(attempt) = attempts.next() => ended.push(attempt),
        }
    }
}

/// An error of the HTTP client with its causes, which its own words leave out.
pub(super) fn in_words(error: &reqwest::Error) -> String {
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        words.push_str(": ");
        words.push_str(&error.to_string());
        cause = error.source();
    }
    words
}
