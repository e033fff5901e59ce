//! The model: a timeline that only grows, the pushes that were taken, and how far each follower
//! has come. Every step is run on the feed as well, and what it shows is compared.

use std::collections::BTreeSet;

use prost::Message as _;

use super::{
    super::{
        state::{SLOT_BYTES, Slot},
        *,
    },
    plan::Step,
};
use crate::{
    delivery::push::Template,
    id::UserId,
    limits::{RING_BYTES_MAX, RING_FLOOR_BYTES, RING_FRAMES_MAX, RINGS_BYTES_MAX},
    pb,
};

/// The slot every follower is woken with.
pub(super) const SLOT: u32 = 7;
/// What other feeds may hold beside this one while the budget is tight.
const OTHER_RINGS: usize = RINGS_BYTES_MAX - 300_000;

/// A stored entry; its seq is its place in the timeline, counted from 1.
#[derive(Clone, Copy, Debug)]
struct Entry {
    device: DeviceId,
    size: usize,
}

/// A push that the feed took; `seq` is 0 for an ephemeral one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) seq: i64,
    pub(super) number: u64,
    pub(super) device: DeviceId,
    pub(super) size: usize,
    /// The head when it was taken.
    pub(super) head: i64,
}

impl Taken {
    pub(super) fn push(self) -> Push {
        let mut content = vec![0; self.size];
        content[..8].copy_from_slice(&self.number.to_le_bytes());
        let message = pb::Message {
            message_content: content.into(),
            ..Default::default()
        };
        Arc::new(Template::new(message, self.device)).push(Seq(self.seq))
    }

    /// What it takes of a ring's bound.
    fn bytes(self) -> usize {
        1 + prost::length_delimiter_len(self.size) + self.size
    }
}

/// The seq and the number of a push.
fn parse(push: &Push) -> (i64, u64) {
    let body = push.encode(UserId(1)).pieces().concat();
    let output = pb::Output::decode(&*body).unwrap();
    let message = pb::MessageSend::decode(output.data).unwrap().message;
    let content = message.unwrap().message_content;
    let number = <[u8; 8]>::try_from(&content[..8]).unwrap();
    (push.seq.get(), u64::from_le_bytes(number))
}

#[derive(Debug)]
struct Reader {
    handle: Arc<Handle>,
    key: FollowerKey,
    position: Position,
    device: DeviceId,
    /// The last entry it has.
    seq: i64,
    /// The number of the last ephemeral push it was given.
    ephemeral: u64,
    /// It was woken and has not read to the end since.
    woken: bool,
    /// It was woken, or told that there is more, and has not read to the end since.
    told: bool,
}

pub(super) struct Model {
    feed: Feed,
    pub(super) budget: Arc<Budget>,
    /// Bytes that are left to the ring when others take too much.
    floor: usize,
    /// What other rings hold.
    pub(super) others: usize,
    timeline: Vec<Entry>,
    head: Option<i64>,
    early: BTreeSet<i64>,
    taken: Vec<Taken>,
    /// What was taken before this place has left the ring.
    first: usize,
    readers: Vec<Reader>,
    /// What was taken by the last sweep.
    swept: usize,
    ephemerals: u64,
}

impl Model {
    pub(super) fn new(topic: Topic) -> Self {
        let budget = Arc::new(Budget::default());
        Self {
            feed: Feed::new(topic, Arc::clone(&budget)),
            floor: topic.owner().map_or(RING_FLOOR_BYTES, |_| 0),
            budget,
            others: 0,
            timeline: Vec::new(),
            head: topic.owner().is_none().then_some(0),
            early: BTreeSet::new(),
            taken: Vec::new(),
            first: 0,
            readers: Vec::new(),
            swept: 0,
            ephemerals: 0,
        }
    }

    pub(super) fn run(&mut self, step: Step) {
        match step {
            Step::Append {
                device,
                size,
                count,
            } => {
                for _ in 0..count {
                    let seq = self.store(device, size);
                    self.offer(seq);
                }
            }
            Step::Store { device, size } => {
                self.store(device, size);
            }
            Step::Offer(index) if !self.timeline.is_empty() => {
                self.offer(index.index(self.timeline.len()) as i64 + 1);
            }
            Step::Ephemeral { device, size } => self.offer_ephemeral(device, size),
            Step::Advance(index) => self.advance(index.index(self.timeline.len() + 1) as i64),
            Step::Open(index) => self.open(index.index(self.timeline.len() + 1) as i64),
            Step::Follow { device, after } => {
                let after = after.map(|at| at.index(self.timeline.len() + 1) as i64);
                self.follow(device, after);
            }
            Step::Unfollow(index) if !self.readers.is_empty() => {
                let reader = self.readers.remove(index.index(self.readers.len()));
                self.feed.unfollow(reader.key, reader.position);
            }
            Step::Read { follower, room } if !self.readers.is_empty() => {
                self.read(follower.index(self.readers.len()), room);
            }
            Step::FromTimeline { follower, to } if !self.readers.is_empty() => {
                let to = to.index(self.timeline.len() + 1) as i64;
                let at = follower.index(self.readers.len());
                let reader = &mut self.readers[at];
                reader.position.seq = Seq(to);
                reader.seq = to;
                // It reads the feed next, by itself.
                reader.told = true;
            }
            Step::Skip { follower, to } if !self.readers.is_empty() => {
                let to = to.index(self.timeline.len() + 1) as i64;
                self.skip(follower.index(self.readers.len()), to);
            }
            Step::Sweep => self.sweep(),
            Step::Tighten => self.tighten(),
            _ => {}
        }
        self.settle();
        self.check();
    }

    fn store(&mut self, device: DeviceId, size: usize) -> i64 {
        self.timeline.push(Entry { device, size });
        self.timeline.len() as i64
    }

    fn offer(&mut self, seq: i64) {
        let answer = self.feed.offer(self.entry(seq).push());
        match self.head {
            Some(head) if seq <= head => {
                assert_eq!(answer, Offer::Taken, "entry {seq} is known");
                return;
            }
            Some(head) if seq == head + 1 => {
                self.take(self.entry(seq));
                self.take_early();
            }
            _ => {
                self.early.insert(seq);
                if self.early.len() > EARLY_MAX {
                    self.early.pop_first();
                }
            }
        }
        let is_gap = self.head.is_some() && !self.early.is_empty();
        assert_eq!(answer == Offer::Gap, is_gap, "early: {:?}", self.early);
    }

    fn offer_ephemeral(&mut self, device: DeviceId, size: usize) {
        self.ephemerals += 1;
        let push = Taken {
            seq: 0,
            number: self.ephemerals,
            device,
            size,
            head: self.head.unwrap_or(0),
        };
        self.feed.offer(push.push());
        self.take(push);
    }

    fn entry(&self, seq: i64) -> Taken {
        let Entry { device, size } = self.timeline[seq as usize - 1];
        Taken {
            seq,
            number: 0,
            device,
            size,
            head: seq,
        }
    }

    fn take(&mut self, push: Taken) {
        if push.seq != 0 {
            self.head = Some(push.seq);
        }
        self.settle();
        while self.ring().len() >= RING_FRAMES_MAX
            || self.bytes() + push.bytes() > RING_BYTES_MAX
            || (self.budgeted() > RINGS_BYTES_MAX
                && !self.ring().is_empty()
                && self.bytes() + push.bytes() > self.floor)
        {
            self.first += 1;
        }
        self.taken.push(push);
    }

    fn take_early(&mut self) {
        while let (Some(head), Some(seq)) = (self.head, self.early.first().copied())
            && seq <= head + 1
        {
            self.early.remove(&seq);
            if seq > head {
                self.take(self.entry(seq));
            }
        }
    }

    fn advance(&mut self, to: i64) {
        let moves = self.head.is_some_and(|head| head < to);
        assert_eq!(self.feed.advance_to(Seq(to)), moves);
        if moves {
            self.first = self.taken.len();
            self.head = Some(to);
            self.take_early();
        }
    }

    pub(super) fn open(&mut self, head: i64) {
        let answer = self.feed.open(Seq(head));
        let opens = self.head.is_none();
        if opens {
            self.head = Some(head);
            self.take_early();
        }
        let is_gap = opens && !self.early.is_empty();
        assert_eq!(answer == Offer::Gap, is_gap, "early: {:?}", self.early);
    }

    fn follow(&mut self, device: DeviceId, after: Option<i64>) {
        let handle = Arc::new(Handle::new(device));
        let begins = after.map(Seq);
        let (key, position) = self.feed.follow(Arc::clone(&handle), SLOT, begins);
        let head = self.head.unwrap_or(0);
        assert_eq!(position.seq.get(), after.unwrap_or(head));
        self.readers.push(Reader {
            handle,
            key,
            position,
            device,
            seq: position.seq.get(),
            ephemeral: self.ephemerals,
            woken: false,
            // It reads by itself when it begins before the head.
            told: position.seq.get() < head,
        });
    }

    fn read(&mut self, at: usize, room: usize) {
        let (head, end) = (self.head.unwrap_or(0), self.taken.len());
        let reader = &mut self.readers[at];
        let ring = self.first.max(reader.position.offset as usize)..end;
        let mut written = Vec::new();
        let write = |push: &Push| {
            written.push(parse(push));
            written.len() < room
        };
        let position = &mut reader.position;
        let (read, given) = self.feed.read(reader.key, position, reader.device, write);
        assert_eq!(given as usize, written.len());

        // I4: ascending, without gaps but for its own, nothing twice; what was sent now comes now.
        let is_own = |seq: i64| self.timeline[seq as usize - 1].device == reader.device;
        for (seq, number) in written.iter().copied() {
            if seq == 0 {
                assert!(number > reader.ephemeral, "ephemeral {number} came again");
                let mut taken = self.taken.iter();
                let taken = taken.find(|push| (push.seq, push.number) == (0, number));
                let place = taken.unwrap().head;
                assert!((reader.seq + 1..=place).all(is_own), "it came too early");
                reader.ephemeral = number;
            } else {
                assert!(seq > reader.seq, "{seq} came after {}", reader.seq);
                assert!(!is_own(seq), "its own {seq} came back");
                assert!((reader.seq + 1..seq).all(is_own), "a gap before {seq}");
                reader.seq = seq;
            }
        }
        let stands = reader.position.seq.get();
        assert!(stands >= reader.seq);
        assert!((reader.seq + 1..=stands).all(is_own), "a gap at the end");
        reader.seq = stands;

        let passed = ring.start..reader.position.offset as usize;
        let ephemerals = self.taken[passed.clone()]
            .iter()
            .filter(|push| push.seq == 0 && push.device != reader.device);
        let given_ephemerals = written.iter().filter(|(seq, _)| *seq == 0);
        assert!(
            ephemerals
                .map(|push| push.number)
                .eq(given_ephemerals.map(|(_, number)| *number)),
            "an ephemeral push of the ring was passed over"
        );

        let left = &self.taken[passed.end..end];
        let is_missing = stands < head && !left.iter().any(|push| push.seq == stands + 1);
        match read {
            Read::UpToDate => {
                assert!(stands >= head && left.is_empty(), "{stands} of {head}");
                (reader.woken, reader.told) = (false, false);
            }
            Read::Behind => {
                assert!(is_missing, "{} is in the ring", stands + 1);
                reader.told = true;
            }
            Read::Full => {
                assert_eq!(written.len(), room, "it wanted more");
                assert!(!left.is_empty());
                reader.told = true;
            }
        }
        if written.len() < room {
            assert_eq!(read == Read::Behind, is_missing);
        }
    }

    fn skip(&mut self, at: usize, to: i64) {
        let reader = &mut self.readers[at];
        let begin = self.first.max(reader.position.offset as usize);
        self.feed.skip_to(Seq(to), &mut reader.position);
        let ahead = &self.taken[begin..];
        let skipped = ahead.iter().take_while(|push| push.head <= to).count();
        assert_eq!(reader.position.offset as usize, begin + skipped);
        reader.seq = reader.seq.max(to);
        // It reads the feed next, by itself.
        reader.told = true;
    }

    fn sweep(&mut self) {
        self.feed.sweep();
        self.first = self.first.max(self.swept);
        self.swept = self.taken.len();
    }

    fn tighten(&mut self) {
        if self.others == 0 {
            self.others = OTHER_RINGS;
            self.budget.take(OTHER_RINGS);
        } else {
            self.budget.give_back(std::mem::take(&mut self.others));
        }
    }

    /// What every follower has passed leaves the ring.
    fn settle(&mut self) {
        let passed = self.readers.iter().map(|r| r.position.offset as usize);
        let passed = passed.min().unwrap_or(self.taken.len());
        self.first = self.first.max(passed);
    }

    fn ring(&self) -> &[Taken] {
        &self.taken[self.first..]
    }

    fn bytes(&self) -> usize {
        self.ring().iter().map(|push| push.bytes()).sum()
    }

    /// What all rings hold.
    fn budgeted(&self) -> usize {
        self.others + self.bytes() + self.ring().len() * SLOT_BYTES
    }

    fn check(&mut self) {
        self.check_ring();
        let (head, end) = (self.head.unwrap_or(0), self.taken.len());
        for reader in &mut self.readers {
            let ready = reader.handle.take_ready();
            assert!(ready.is_empty() || ready == [SLOT], "woken as {ready:?}");
            if !ready.is_empty() {
                assert!(!reader.woken, "woken twice");
                (reader.woken, reader.told) = (true, true);
            }
            let offset = self.first.max(reader.position.offset as usize);
            if reader.seq < head || offset < end {
                assert!(reader.told, "asleep at {} of {head}", reader.seq);
            }
        }
    }

    fn check_ring(&self) {
        assert_eq!(self.feed.head(), self.head.map(Seq));
        let gap_end = self.head.and(self.early.last().copied());
        assert_eq!(self.feed.gap_end(), gap_end.map(Seq));

        let state = self.feed.lock();
        let seqs = |push: &Slot| push.push.seq.get();
        assert!(
            state
                .ring
                .iter()
                .map(seqs)
                .eq(self.ring().iter().map(|push| push.seq)),
            "another ring than {:?}",
            self.ring()
        );
        assert_eq!(state.bytes, self.bytes());
        assert_eq!(self.budget.taken(), self.budgeted());
        assert!(state.ring.len() <= RING_FRAMES_MAX);
        assert!(state.bytes <= RING_BYTES_MAX);
        let persisted: Vec<i64> = state.ring.iter().map(seqs).filter(|seq| *seq > 0).collect();
        assert!(persisted.windows(2).all(|pair| pair[1] == pair[0] + 1));
        assert!(persisted.last().is_none_or(|last| Some(*last) == self.head));
    }

    /// Lets every follower read to the end, from the timeline where it must.
    pub(super) fn finish(&mut self) {
        for at in 0..self.readers.len() {
            while {
                self.read(at, usize::MAX);
                self.readers[at].told
            } {
                let reader = &mut self.readers[at];
                reader.seq += 1;
                reader.position.seq = Seq(reader.seq);
            }
        }
        self.settle();
        self.check();
        assert!(self.feed.lock().ring.is_empty());
        assert_eq!(self.budget.taken(), self.others);
    }
}
