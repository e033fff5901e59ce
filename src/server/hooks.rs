//! What tells a business server of what happens here: nothing of it runs where no URL is set.

use std::sync::Arc;

use crate::{
    clock::Clock,
    config::Config,
    delivery::{departures::Departures, registry::Registry},
    error::Result,
    lifecycle::Tasks,
    store::{Store, online::Attendance, outbox::Outbox},
    telemetry::Metrics,
    webhook::{Attendant, Delivery, delivery},
};

/// What the tasks are made of.
pub(super) struct Hooks<'a> {
    pub(super) config: &'a Config,
    pub(super) store: &'a Store,
    pub(super) outbox: &'a Outbox,
    pub(super) registry: &'a Arc<Registry>,
    pub(super) departures: Option<Arc<Departures>>,
    pub(super) clock: &'a Arc<dyn Clock>,
    pub(super) metrics: &'a Arc<Metrics>,
}

impl Hooks<'_> {
    /// Starts them. Gives where sign-ins are written down, if they are.
    pub(super) async fn start(self, core: &Tasks) -> Result<Option<Attendance>> {
        if self.config.webhooks.url.is_empty() {
            return Ok(None);
        }
        // Positive and not 0, as all ids.
        let instance = rand::random_range(1..=i64::MAX);
        let attendance = Attendance::at(instance, self.outbox);
        if let (Some(attendance), Some(departures)) = (attendance.clone(), self.departures) {
            let attendant = Attendant {
                store: self.store.clone(),
                attendance,
                registry: Arc::clone(self.registry),
                departures,
                clock: Arc::clone(self.clock),
            };
            attendant.list().await?;
            core.spawn_critical("attendance", attendant.run(core.stop().clone()));
        }
        let options = delivery::Options {
            store: self.store.clone(),
            outbox: self.outbox.clone(),
            attendance: attendance.clone(),
            is_alone: self.config.redis.url.is_empty(),
            clock: Arc::clone(self.clock),
            metrics: Arc::clone(self.metrics),
        };
        let delivery = Delivery::new(options, &self.config.webhooks)?;
        core.spawn_critical("webhooks", delivery.run(core.stop().clone()));
        Ok(attendance)
    }
}
