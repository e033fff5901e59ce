//! Mentioned users as they are stored: one varint each, as protobuf packs them.

use prost::encoding::{decode_varint, encode_varint};

/// Packs user ids.
pub(super) fn encode(ids: &[i64]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(2 * ids.len());
    for id in ids {
        encode_varint(*id as u64, &mut packed);
    }
    packed
}

/// Unpacks user ids; what is damaged ends the list.
pub(crate) fn decode(mut packed: &[u8]) -> Vec<i64> {
    let mut ids = Vec::new();
    while let Ok(id) = decode_varint(&mut packed) {
        ids.push(id as i64);
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked(ids in proptest::collection::vec(any::<i64>(), 0..100)) {
            prop_assert_eq!(decode(&encode(&ids)), ids);
        }
    }
}
