//! Lists of ids in conditions.

/// Ids for an `IN`, as many as the next power of two, the last one repeated. Each number of parameters
/// is a statement of its own, which a connection keeps prepared: thousands of numbers would take
/// hundreds of MiB, and be prepared again and again.
pub(super) fn padded(ids: impl IntoIterator<Item = i64>) -> Vec<i64> {
    let mut ids: Vec<i64> = ids.into_iter().collect();
    if let Some(last) = ids.last().copied() {
        ids.resize(ids.len().next_power_of_two(), last);
    }
    ids
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn lists_of_all_lengths_have_few_lengths_and_the_same_ids() {
        assert_eq!(padded([]), Vec::<i64>::new());
        let mut lengths = BTreeSet::new();
        for count in 1..=1_000 {
            let list = padded(0..count);
            assert!((0..count).eq(list.iter().copied().collect::<BTreeSet<_>>()));
            lengths.insert(list.len());
        }
        assert_eq!(lengths.len(), 11);
    }
}
