//! Which bytes of a file a request wants (RFC 9110 §14), and whether it has them already (§13). Of many
//! ranges at once none is given: the whole file is an answer that every client takes.

use std::{
    ops::Range,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{
    HeaderMap,
    header::{IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, RANGE},
};

/// What is wanted of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it.
    Whole,
    /// These bytes.
    Part(Range<u64>),
    /// Bytes that it does not have.
    Nothing,
}

/// What a client may know a file by.
#[derive(Clone, Debug)]
pub(super) struct Validators {
    /// A strong one, with its quotes.
    pub(super) etag: String,
    /// To the second.
    pub(super) modified: SystemTime,
}

impl Validators {
    pub(super) fn new(etag: String, modified_ms: i64) -> Self {
        let seconds = u64::try_from(modified_ms / 1_000).unwrap_or_default();
        Self {
            etag,
            modified: UNIX_EPOCH + Duration::from_secs(seconds),
        }
    }

    /// Whether the client has the file as it is.
    pub(super) fn are_known(&self, headers: &HeaderMap) -> bool {
        let mut tags = headers.get_all(IF_NONE_MATCH).iter().peekable();
        if tags.peek().is_some() {
            return tags
                .filter_map(|value| value.to_str().ok())
                .flat_map(|value| value.split(','))
                .map(str::trim)
                .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == self.etag);
        }
        let since = headers.get(IF_MODIFIED_SINCE).and_then(date);
        since.is_some_and(|since| self.modified <= since)
    }

    /// What is wanted of a file of `size` bytes.
    pub(super) fn wanted(&self, headers: &HeaderMap, size: u64) -> Wanted {
        let mut ranges = headers.get_all(RANGE).iter();
        let (Some(range), None) = (ranges.next(), ranges.next()) else {
            return Wanted::Whole;
        };
        let is_the_same = headers.get(IF_RANGE).is_none_or(|value| {
            value.as_bytes() == self.etag.as_bytes() || date(value) == Some(self.modified)
        });
        match range.to_str() {
            Ok(range) if is_the_same => parse(range, size),
            _ => Wanted::Whole,
        }
    }
}

fn date(value: &http::HeaderValue) -> Option<SystemTime> {
    httpdate::parse_http_date(value.to_str().ok()?).ok()
}

/// What the header `Range` asks of a file of `size` bytes; what is no range of bytes asks for all.
fn parse(range: &str, size: u64) -> Wanted {
    let range = range
        .split_once('=')
        .filter(|(unit, _)| unit.trim().eq_ignore_ascii_case("bytes"))
        .and_then(|(_, range)| range.trim().split_once('-'));
    let Some((first, last)) = range else {
        return Wanted::Whole;
    };
    let wanted = match (number(first), number(last)) {
        (Number::None, Number::Is(length)) => size.saturating_sub(length)..size,
        (Number::Is(first), Number::None) => first..size,
        (Number::Is(first), Number::Is(last)) if first <= last => {
            first..last.saturating_add(1).min(size)
        }
        _ => return Wanted::Whole,
    };
    if wanted.is_empty() {
        Wanted::Nothing
    } else {
        Wanted::Part(wanted)
    }
}

enum Number {
    Is(u64),
    None,
    Wrong,
}

/// One end of a range. What is too large to count is beyond any file.
fn number(text: &str) -> Number {
    if text.is_empty() {
        Number::None
    } else if text.bytes().all(|b| b.is_ascii_digit()) {
        Number::Is(text.parse().unwrap_or(u64::MAX))
    } else {
        Number::Wrong
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_are_what_the_standard_says() {
        let part = Wanted::Part;
        for (range, wanted) in [
            ("bytes=0-499", part(0..500)),
            ("bytes=500-999", part(500..1_000)),
            ("bytes=-500", part(500..1_000)),
            ("bytes=950-", part(950..1_000)),
            ("bytes=0-0", part(0..1)),
            ("bytes=-1", part(999..1_000)),
            ("bytes=999-5000", part(999..1_000)),
            ("bytes=-5000", part(0..1_000)),
            ("BYTES=0-99999999999999999999999", part(0..1_000)),
            ("bytes=1000-", Wanted::Nothing),
            ("bytes=1000-1001", Wanted::Nothing),
            ("bytes=99999999999999999999999-", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=5-4", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
            ("bytes=0-1,5-6", Wanted::Whole),
            ("lines=0-1", Wanted::Whole),
            ("bytes", Wanted::Whole),
        ] {
            assert_eq!(parse(range, 1_000), wanted, "{range}");
        }
        assert_eq!(parse("bytes=0-", 0), Wanted::Nothing);
        assert_eq!(parse("bytes=-5", 0), Wanted::Nothing);
    }

    proptest! {
        #[test]
        fn a_range_is_within_the_file_and_what_was_asked(
            first in proptest::option::of(0..2_000_u64),
            last in proptest::option::of(0..2_000_u64),
            size in 0..1_500_u64,
        ) {
            let text = |end: Option<u64>| end.map_or(String::new(), |end| end.to_string());
            let file: Vec<u64> = (0..size).collect();
            let asked: Option<Vec<u64>> = match (first, last) {
                (None, None) => None,
                (None, Some(n)) => Some(file[file.len().saturating_sub(n as usize)..].to_vec()),
                (Some(f), None) => Some(file.iter().copied().filter(|at| *at >= f).collect()),
                (Some(f), Some(l)) if f > l => None,
                (Some(f), Some(l)) => {
                    Some(file.iter().copied().filter(|at| (f..=l).contains(at)).collect())
                }
            };
            let given = match parse(&format!("bytes={}-{}", text(first), text(last)), size) {
                Wanted::Whole => None,
                Wanted::Nothing => Some(Vec::new()),
                Wanted::Part(range) => Some(range.collect()),
            };
            prop_assert_eq!(given, asked);
        }
    }

    #[test]
    fn what_is_known_is_not_sent_again() {
        let file = Validators::new("\"abc\"".into(), 1_700_000_000_999);
        let with = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().expect("a header"));
            headers
        };
        let now = httpdate::fmt_http_date(file.modified);
        let before = httpdate::fmt_http_date(file.modified - Duration::from_secs(1));
        for (name, value, known) in [
            ("if-none-match", "\"abc\"", true),
            ("if-none-match", "\"x\", W/\"abc\"", true),
            ("if-none-match", "*", true),
            ("if-none-match", "\"x\"", false),
            ("if-none-match", "abc", false),
            ("if-modified-since", &now, true),
            ("if-modified-since", &before, false),
            ("if-modified-since", "yesterday", false),
        ] {
            assert_eq!(file.are_known(&with(name, value)), known, "{name}: {value}");
        }
        for (value, wanted) in [
            ("\"abc\"", Wanted::Part(1..3)),
            ("W/\"abc\"", Wanted::Whole),
            ("\"x\"", Wanted::Whole),
            (&now, Wanted::Part(1..3)),
            (&before, Wanted::Whole),
        ] {
            let mut headers = with("if-range", value);
            headers.insert(RANGE, "bytes=1-2".parse().expect("a header"));
            assert_eq!(file.wanted(&headers, 9), wanted, "{value}");
        }
        assert_eq!(file.wanted(&HeaderMap::new(), 9), Wanted::Whole);
    }
}
