//! A set of numbers that is nearly one run: positions of a timeline, counters of a sender. However
//! many numbers, it takes the room of its holes.

use std::iter;

/// A set of numbers kept as runs.
#[derive(Clone, Debug, Default)]
pub struct Ranges {
    /// Disjoint and not adjacent, ascending, both ends included.
    runs: Vec<(i64, i64)>,
}

impl Ranges {
    /// The numbers 1 to `n`.
    pub fn up_to(n: u32) -> Self {
        let runs = (n > 0).then(|| (1, n.into()));
        Self {
            runs: runs.into_iter().collect(),
        }
    }

    /// Adds `n`; false when it was there already.
    pub fn insert(&mut self, n: i64) -> bool {
        // Runs after `at` begin beyond `n`; nearly always that is none.
        let at = self.runs.partition_point(|&(first, _)| first <= n);
        let extends_next = self.runs.get(at).is_some_and(|&(first, _)| first == n + 1);
        match at
            .checked_sub(1)
            .map(|before| (before, self.runs[before].1))
        {
            Some((_, last)) if n <= last => return false,
            Some((before, last)) if last + 1 == n && extends_next => {
                self.runs[before].1 = self.runs.remove(at).1;
            }
            Some((before, last)) if last + 1 == n => self.runs[before].1 = n,
            _ if extends_next => self.runs[at].0 = n,
            _ => self.runs.insert(at, (n, n)),
        }
        true
    }

    /// How many numbers are in it.
    pub fn len(&self) -> u64 {
        self.runs
            .iter()
            .map(|&(first, last)| last.abs_diff(first) + 1)
            .sum()
    }

    /// The smallest number.
    pub fn first(&self) -> Option<i64> {
        self.runs.first().map(|&(first, _)| first)
    }

    /// The last number before the first hole.
    pub fn held(&self) -> Option<i64> {
        self.runs.first().map(|&(_, last)| last)
    }

    /// How many numbers are missing between the smallest and the largest.
    pub fn holes(&self) -> u64 {
        iter::zip(&self.runs, self.runs.iter().skip(1))
            .map(|(&(_, last), &(first, _))| last.abs_diff(first) - 1)
            .sum()
    }

    /// How many of its numbers are not in `other`.
    pub fn missing_from(&self, other: &Self) -> u64 {
        let common = self.runs.iter().map(|&run| other.overlap(run)).sum::<u64>();
        self.len() - common
    }

    /// How many numbers of the run it holds.
    fn overlap(&self, (first, last): (i64, i64)) -> u64 {
        let from = self.runs.partition_point(|&(_, end)| end < first);
        self.runs[from..]
            .iter()
            .take_while(|&&(start, _)| start <= last)
            .map(|&(start, end)| last.min(end).abs_diff(first.max(start)) + 1)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn up_to_holds_exactly_these() {
        assert_eq!(Ranges::up_to(0).len(), 0);
        let mut ranges = Ranges::up_to(3);
        assert_eq!(
            (ranges.len(), ranges.insert(1), ranges.insert(4)),
            (3, false, true)
        );
    }

    #[test]
    fn ranges_agree_with_a_plain_set() {
        let mut random = rand::rngs::StdRng::seed_from_u64(1);
        for _ in 0..200 {
            let mut ranges = Ranges::default();
            let mut set = BTreeSet::new();
            for _ in 0..random.random_range(1..60) {
                let n = random.random_range(0..50);
                assert_eq!(ranges.insert(n), set.insert(n));
            }
            let (first, last) = (set.first().copied(), set.last().copied());
            assert_eq!(ranges.len(), set.len() as u64);
            assert_eq!(ranges.first(), first);
            let span = last.unwrap_or(0) - first.unwrap_or(0) + 1;
            assert_eq!(ranges.holes(), span as u64 - set.len() as u64);
            let mut wanted = Ranges::default();
            for n in 10..20 {
                wanted.insert(n);
            }
            let missing = (10..20).filter(|n| !set.contains(n)).count();
            assert_eq!(wanted.missing_from(&ranges), missing as u64);
        }
    }
}
