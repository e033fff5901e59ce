//! Which event is posted next: sans I/O and without a clock. Each owner's events wait in a lane of
//! their own, in their order, and only the first of a lane is posted; it stays the first until it was
//! taken or given up. Lanes do not wait for each other, until so many fail that the server counts as
//! away: then one event at a time is tried, of one lane after the other.
//!
//! A lane holds a few events ahead; what is beyond is read again when it has come that far. Events
//! that were taken are remembered until they are deleted, so that none is posted twice.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    limits::{
        WEBHOOK_AWAY_AFTER, WEBHOOK_BACK_OFF_MAX, WEBHOOK_BACK_OFF_MIN, WEBHOOK_LANE_EVENTS_MAX,
        WEBHOOK_LANES_MAX, WEBHOOK_PROBE_MAX,
    },
    store::outbox::Row,
};

/// Events that are known, by their owners.
#[derive(Debug, Default)]
pub(super) struct Plan {
    lanes: HashMap<i64, Lane>,
    /// When the first event of a lane is due, its id, and the lane; not of lanes with one under way.
    due: BTreeSet<(Instant, i64, i64)>,
    /// Lanes that have come to the end of what they hold, but not of what there is.
    hungry: Vec<i64>,
    /// Taken or given up, and not deleted yet.
    done: HashSet<i64>,
    in_flight: usize,
    /// Nothing is posted before.
    rests_until: Option<Instant>,
    health: Health,
}

/// The events of one owner.
#[derive(Debug, Default)]
struct Lane {
    events: VecDeque<Row>,
    /// When the first one is due; `None` while it is under way.
    due: Option<Instant>,
    /// How often the first one was not taken.
    attempts: u32,
    /// There are more than are held.
    has_more: bool,
}

/// How the server does.
#[derive(Debug, Default)]
struct Health {
    /// Owners of events that were not taken since one was.
    failed: HashSet<i64>,
    away: Option<Away>,
}

#[derive(Debug)]
struct Away {
    tries: u32,
    probe_at: Instant,
}

/// What follows when an event was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It is posted again.
    Again,
    /// It is posted again, and the server counts as away from now on.
    NowAway,
    /// It was tried for long enough.
    GivenUp,
}

impl Plan {
    /// Takes an event in that was read, or finds that it is known. False when there is no room for
    /// its owner.
    pub(super) fn offer(&mut self, event: Row, now: Instant) -> bool {
        if self.done.contains(&event.id) {
            return true;
        }
        if let Some(lane) = self.lanes.get_mut(&event.owner_id) {
            lane.offer(event);
            return true;
        }
        if self.lanes.len() >= WEBHOOK_LANES_MAX {
            return false;
        }
        self.due.insert((now, event.id, event.owner_id));
        let lane = Lane {
            due: Some(now),
            ..Lane::default()
        };
        let lane = self.lanes.entry(event.owner_id).or_insert(lane);
        lane.events.push_back(event);
        true
    }

    /// Whether there is room for many owners more.
    pub(super) fn has_room(&self) -> bool {
        self.lanes.len() <= WEBHOOK_LANES_MAX / 2
    }

    /// The event to post now, if one is due.
    pub(super) fn next(&mut self, now: Instant) -> Option<Row> {
        if self.rests_until.is_some_and(|until| now < until) {
            return None;
        }
        if let Some(away) = &self.health.away
            && (self.in_flight > 0 || now < away.probe_at)
        {
            return None;
        }
        let (due, _, owner) = self.due.first().copied()?;
        if due > now {
            return None;
        }
        self.due.pop_first();
        let lane = self.lanes.get_mut(&owner)?;
        lane.due = None;
        self.in_flight += 1;
        lane.events.front().cloned()
    }

    /// When [`Plan::next`] may have something; `None` while nothing waits.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let (due, ..) = self.due.first()?;
        let due = self.rests_until.map_or(*due, |until| until.max(*due));
        match &self.health.away {
            // The one under way comes first.
            Some(_) if self.in_flight > 0 => None,
            Some(away) => Some(due.max(away.probe_at)),
            None => Some(due),
        }
    }

    /// The first event of a lane was taken. True when the server was away and is back.
    pub(super) fn taken(&mut self, owner: i64, now: Instant) -> bool {
        self.in_flight = self.in_flight.saturating_sub(1);
        let is_back = self.health.succeeded();
        if is_back {
            self.hurry(now);
        }
        self.advance(owner, now);
        is_back
    }

    /// The first event of a lane was not taken. It is given up if it came to be before `horizon_ms`.
    pub(super) fn failed(&mut self, owner: i64, now: Instant, horizon_ms: i64) -> Failure {
        self.in_flight = self.in_flight.saturating_sub(1);
        let is_alone = self.in_flight == 0;
        let is_now_away = self.health.failed(owner, now, is_alone);
        let Some(lane) = self.lanes.get_mut(&owner) else {
            return Failure::Again;
        };
        let first = lane.events.front();
        if first.is_some_and(|event| event.created_at <= horizon_ms) {
            self.advance(owner, now);
            return Failure::GivenUp;
        }
        lane.attempts = lane.attempts.saturating_add(1);
        let due = now + jittered(back_off(lane.attempts, WEBHOOK_BACK_OFF_MAX));
        lane.due = Some(due);
        self.due.extend(first.map(|event| (due, event.id, owner)));
        if is_now_away {
            Failure::NowAway
        } else {
            Failure::Again
        }
    }

    /// The first event of a lane could not be read, which says nothing about the server. Nothing is
    /// posted before `until`.
    pub(super) fn unread(&mut self, owner: i64, until: Instant) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.rests_until = Some(until);
        if let Some(lane) = self.lanes.get_mut(&owner) {
            lane.due = Some(until);
            let first = lane.events.front();
            self.due.extend(first.map(|event| (until, event.id, owner)));
        }
    }

    /// A lane goes on behind its first event.
    fn advance(&mut self, owner: i64, now: Instant) {
        let Some(lane) = self.lanes.get_mut(&owner) else {
            return;
        };
        let first = lane.events.pop_front();
        self.done.extend(first.map(|event| event.id));
        lane.attempts = 0;
        lane.due = Some(now);
        if let Some(next) = lane.events.front() {
            self.due.insert((now, next.id, owner));
        } else if lane.has_more {
            self.hungry.push(owner);
        } else {
            self.lanes.remove(&owner);
        }
    }

    /// All that wait are due.
    fn hurry(&mut self, now: Instant) {
        let due = std::mem::take(&mut self.due);
        for (_, id, owner) in due {
            if let Some(lane) = self.lanes.get_mut(&owner) {
                lane.due = Some(now);
                self.due.insert((now, id, owner));
            }
        }
    }

    /// Lanes whose next events must be read, once all that is [done](Self::done) is deleted.
    pub(super) fn hungry(&self) -> &[i64] {
        &self.hungry
    }

    /// Gives a lane what was read of it from the start. A full page may not be all.
    pub(super) fn feed(&mut self, owner: i64, page: Vec<Row>, now: Instant) {
        self.hungry.retain(|hungry| *hungry != owner);
        let Some(lane) = self.lanes.get_mut(&owner) else {
            return;
        };
        lane.has_more = page.len() >= WEBHOOK_LANE_EVENTS_MAX;
        lane.events = page.into();
        match lane.events.front() {
            Some(first) => drop(self.due.insert((now, first.id, owner))),
            None => drop(self.lanes.remove(&owner)),
        }
    }

    /// Events to be deleted.
    pub(super) fn done(&self) -> impl Iterator<Item = i64> {
        self.done.iter().copied()
    }

    /// How many those are.
    pub(super) fn done_count(&self) -> usize {
        self.done.len()
    }

    /// These are deleted.
    pub(super) fn deleted(&mut self, ids: &[i64]) {
        for id in ids {
            self.done.remove(id);
        }
    }

    /// The server counts as away.
    pub(super) fn is_away(&self) -> bool {
        self.health.away.is_some()
    }

    /// Whether an event is known.
    pub(super) fn holds(&self, event: &Row) -> bool {
        let lane = self.lanes.get(&event.owner_id);
        self.done.contains(&event.id) || lane.is_some_and(|lane| lane.holds(event.id))
    }

    /// Nothing is under way any more: whoever posted has ended.
    pub(super) fn start_over(&mut self) {
        let done = std::mem::take(&mut self.done);
        *self = Self {
            done,
            ..Self::default()
        };
    }
}

impl Lane {
    fn offer(&mut self, event: Row) {
        if self.holds(event.id) {
            return;
        }
        let is_next = self.events.back().is_none_or(|last| last.id < event.id);
        // An id that is committed late, before one that is known, has its turn at the next reading.
        if is_next && !self.has_more && self.events.len() < WEBHOOK_LANE_EVENTS_MAX {
            self.events.push_back(event);
        } else {
            self.has_more = true;
        }
    }

    fn holds(&self, id: i64) -> bool {
        self.events.iter().any(|event| event.id == id)
    }
}

impl Health {
    /// True when the server was away.
    fn succeeded(&mut self) -> bool {
        self.failed.clear();
        self.away.take().is_some()
    }

    /// True when the server counts as away from now on.
    fn failed(&mut self, owner: i64, now: Instant, is_alone: bool) -> bool {
        if let Some(away) = &mut self.away {
            // Those that were under way when it was found out say nothing new.
            if is_alone {
                away.tries = away.tries.saturating_add(1);
                away.probe_at = now + back_off(away.tries, WEBHOOK_PROBE_MAX);
            }
            return false;
        }
        self.failed.insert(owner);
        let is_away = self.failed.len() >= WEBHOOK_AWAY_AFTER;
        if is_away {
            self.away = Some(Away {
                tries: 1,
                probe_at: now + WEBHOOK_BACK_OFF_MIN,
            });
        }
        is_away
    }
}

/// The pause after so many failures in a row.
fn back_off(failures: u32, max: Duration) -> Duration {
    let doubled = 1_u32.checked_shl(failures.saturating_sub(1));
    WEBHOOK_BACK_OFF_MIN
        .saturating_mul(doubled.unwrap_or(u32::MAX))
        .min(max)
}

/// So that those that failed together do not come again together.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.75..=1.0))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
