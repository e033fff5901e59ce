//! How far the outbox has been read. Ids are handed out in order but committed in any: behind the end
//! of what was read, what is new is found by its higher id; before it, what came late is found by
//! reading again from where nothing can come late any more.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::plan::Plan;
use crate::{
    limits::{WEBHOOK_PAGE_MAX, WEBHOOK_POLL_INTERVAL, WEBHOOK_READ_PAUSE, WEBHOOK_SETTLED_AFTER},
    store::{
        self, Outcome, Store,
        outbox::{self, Row},
    },
};

/// Pages that one look for what came late reads; the next one goes on.
const LATE_PAGES: usize = 10;

/// How far the outbox has been read.
#[derive(Debug)]
pub(super) struct Scan {
    /// What is beyond is new.
    end: i64,
    /// Nothing comes any more up to here.
    settled: i64,
    /// Where a look for what came late goes on, and what is settled when it has come to the end.
    late: Option<(i64, i64)>,
    /// Former ends, and when they were reached.
    ends: VecDeque<(Instant, i64)>,
    /// When to read what is new.
    new_at: Instant,
    /// When to look for what came late.
    late_at: Instant,
    last: Instant,
    /// There was no room for what was read last.
    is_stopped: bool,
}

impl Scan {
    pub(super) fn from(now: Instant) -> Self {
        Self {
            end: 0,
            settled: 0,
            late: None,
            ends: VecDeque::new(),
            new_at: now,
            late_at: now + WEBHOOK_POLL_INTERVAL,
            last: now,
            is_stopped: false,
        }
    }

    /// When something is to be read.
    pub(super) fn due(&self) -> Instant {
        self.new_at.min(self.late_at)
    }

    /// There is something new. Where there was no room for what came before it, it has none either.
    pub(super) fn hurry(&mut self) {
        if !self.is_stopped {
            self.read_soon();
        }
    }

    /// There is room again: what had none is read.
    pub(super) fn go_on(&mut self) {
        if self.is_stopped {
            self.read_soon();
        }
    }

    fn read_soon(&mut self) {
        self.new_at = self.new_at.min(self.last + WEBHOOK_READ_PAUSE);
    }

    /// Nothing is read before `at`.
    pub(super) fn rest_until(&mut self, at: Instant) {
        self.new_at = at;
        self.late_at = at;
    }

    /// Reads what it is time for, into `plan`. What there is no room for is read again later.
    pub(super) async fn read(&mut self, store: &Store, plan: &mut Plan) -> Outcome<()> {
        let now = Instant::now();
        if self.new_at <= now {
            self.read_new(store, plan, now).await?;
        }
        if self.late_at <= now {
            self.read_late(store, plan, now).await?;
        }
        Ok(())
    }

    async fn read_new(&mut self, store: &Store, plan: &mut Plan, now: Instant) -> Outcome<()> {
        let page = page(store, self.end).await?;
        let is_all = page.len() < WEBHOOK_PAGE_MAX;
        let (read, is_taken) = offer(plan, page, now);
        self.end = read.unwrap_or(self.end);
        self.last = now;
        self.is_stopped = !is_taken;
        if is_all && is_taken {
            let is_recent = |(at, _): &(Instant, i64)| now < *at + WEBHOOK_POLL_INTERVAL;
            if !self.ends.back().is_some_and(is_recent) {
                self.ends.push_back((now, self.end));
            }
        }
        self.new_at = match is_all || !is_taken {
            true => now + WEBHOOK_POLL_INTERVAL,
            false => now,
        };
        Ok(())
    }

    async fn read_late(&mut self, store: &Store, plan: &mut Plan, now: Instant) -> Outcome<()> {
        self.late_at = now + WEBHOOK_POLL_INTERVAL;
        let (mut after, settles) = match self.late {
            Some(late) => late,
            None => (self.settled, self.settling(now)),
        };
        for _ in 0..LATE_PAGES {
            let mut page = page(store, after).await?;
            let is_all = page.len() < WEBHOOK_PAGE_MAX;
            page.retain(|event| event.id <= self.end);
            let is_at_end = is_all || page.is_empty();
            let (read, is_taken) = offer(plan, page, now);
            after = read.unwrap_or(after);
            self.late = Some((after, settles));
            if !is_taken {
                return Ok(());
            }
            if is_at_end {
                self.settled = settles;
                self.late = None;
                return Ok(());
            }
        }
        Ok(())
    }

    /// Up to where nothing comes any more, as of now.
    fn settling(&mut self, now: Instant) -> i64 {
        let mut settles = self.settled;
        while let Some((at, end)) = self.ends.front()
            && *at + WEBHOOK_SETTLED_AFTER <= now
        {
            settles = *end;
            self.ends.pop_front();
        }
        settles
    }
}

async fn page(store: &Store, after: i64) -> Outcome<Vec<Row>> {
    let page = outbox::page(store.reader(), None, after, WEBHOOK_PAGE_MAX as u64);
    store::attempt(page).await
}

/// Offers events to the plan; the last one that it took, and whether it took all.
fn offer(plan: &mut Plan, page: Vec<Row>, now: Instant) -> (Option<i64>, bool) {
    let mut last = None;
    for event in page {
        let id = event.id;
        if !plan.offer(event, now) {
            return (last, false);
        }
        last = Some(id);
    }
    (last, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_no_room_for_is_not_read_again_at_each_commit() {
        let now = Instant::now();
        let mut scan = Scan::from(now);
        scan.new_at = now + WEBHOOK_POLL_INTERVAL;
        scan.is_stopped = true;
        scan.hurry();
        assert_eq!(scan.due(), now + WEBHOOK_POLL_INTERVAL);
        scan.go_on();
        assert_eq!(scan.due(), now + WEBHOOK_READ_PAUSE);
    }
}
