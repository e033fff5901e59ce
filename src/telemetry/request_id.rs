//! The id of a request over gRPC or HTTP: its caller's, or a new one. It is in the request's span and
//! comes back with the answer.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::limits::REQUEST_ID_BYTES_MAX;

/// Where a request's id travels, both ways.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("request_id");

/// The caller's request id, if it is one, or a new one.
#[must_use]
pub fn request_id(headers: &HeaderMap) -> HeaderValue {
    headers
        .get(REQUEST_ID)
        .filter(|id| (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.to_str().is_ok())
        .cloned()
        .unwrap_or_else(|| rand::random::<u64>().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_id_of_the_caller_is_kept_if_it_is_one() {
        let kept = |value: &[u8]| {
            let mut metadata = HeaderMap::new();
            metadata.insert(REQUEST_ID, value.try_into().unwrap());
            request_id(&metadata).as_bytes() == value
        };
        assert!(kept(b"order-17"));
        assert!(kept(&[b'x'; REQUEST_ID_BYTES_MAX]));
        assert!(!kept(&[b'x'; REQUEST_ID_BYTES_MAX + 1]));
        assert!(!kept(b""));
        assert!(!kept(b"caf\xc3\xa9"));
    }

    #[test]
    fn new_request_ids_differ() {
        let none = HeaderMap::new();
        assert_ne!(request_id(&none), request_id(&none));
    }
}
