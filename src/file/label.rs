//! What a client says of its file: a name and a content type. Both are only ever told to those who get
//! the file; here they become something that is harmless to tell.

use crate::limits::{FILE_NAME_BYTES_MAX, FILE_TYPE_BYTES_MAX};

/// What a file is called where its client gave no name.
const NO_NAME: &str = "file";
/// Longest part of a content type, before and after the slash (RFC 6838 §4.2).
const TYPE_CHARS_MAX: usize = 63;
const _: () = assert!(2 * TYPE_CHARS_MAX < FILE_TYPE_BYTES_MAX);
/// What leads from a content type to its charset.
const CHARSET: &str = "; charset=";
/// What is said of a file whose type is unknown, or would make a browser run it.
pub const BYTES: &str = "application/octet-stream";

/// Types that a browser shows and does not run. Whatever is not here is saved, not shown.
const SHOWN: &[&str] = &[
    "image/png",
    "image/jpeg",
    "image/gif",
    "image/webp",
    "image/avif",
    "image/bmp",
    "audio/mpeg",
    "audio/mp4",
    "audio/aac",
    "audio/ogg",
    "audio/wav",
    "audio/webm",
    "audio/flac",
    "audio/amr",
    "video/mp4",
    "video/webm",
    "video/ogg",
    "video/quicktime",
    "text/plain",
];

/// Endings of names that a browser or a desktop runs, or shows as a page.
const RUN_BY_NAME: &[&str] = &[
    "html", "htm", "shtml", "xhtml", "xht", "mht", "mhtml", "svg", "svgz", "xml", "xsl", "xslt",
    "js", "mjs", "css", "wasm", "swf", "pdf", "hta", "exe", "bat", "cmd", "com", "scr", "lnk",
    "vbs", "jar",
];

/// How a browser is told to treat a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// It may show it.
    Show,
    /// It saves it.
    Save,
}

/// A name that can be told: the last part of a path, without control characters and such as turn the
/// direction of text, and not too long.
#[must_use]
pub fn name(said: &str) -> String {
    let last = said.rsplit(['/', '\\']).next().unwrap_or_default();
    let mut name: String = last.chars().filter(|c| !is_unseen(*c)).collect();
    name.truncate(name.floor_char_boundary(FILE_NAME_BYTES_MAX));
    match name.trim() {
        "" | "." | ".." => NO_NAME.to_owned(),
        name => name.to_owned(),
    }
}

/// Control characters, and those that hide or turn what stands beside them.
fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// `said` as `type/subtype`, in lower case and with its `charset` if it has one and there is room for it;
/// [`BYTES`] where it is no content type.
#[must_use]
pub fn content_type(said: &str) -> String {
    let mut parts = said.split(';');
    let essence = parts.next().unwrap_or_default().trim();
    let known = essence
        .split_once('/')
        .is_some_and(|(kind, subtype)| is_token(kind) && is_token(subtype));
    if !known {
        return BYTES.to_owned();
    }
    let mut content_type = essence.to_ascii_lowercase();
    let charset = parts.find_map(|part| {
        let (name, value) = part.trim().split_once('=')?;
        let value = value.trim_matches('"');
        (name.eq_ignore_ascii_case("charset") && is_token(value)).then_some(value)
    });
    let room = FILE_TYPE_BYTES_MAX.saturating_sub(content_type.len() + CHARSET.len());
    if let Some(charset) = charset.filter(|charset| charset.len() <= room) {
        content_type.push_str(CHARSET);
        content_type.push_str(&charset.to_ascii_lowercase());
    }
    content_type
}

fn is_token(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b);
    (1..=TYPE_CHARS_MAX).contains(&text.len()) && text.bytes().all(allowed)
}

/// What a browser is told to do with a file of this type and name.
#[must_use]
pub fn treatment(content_type: &str, name: &str) -> Treatment {
    let ending = name.rsplit('.').next().unwrap_or_default().trim();
    let runs = RUN_BY_NAME
        .iter()
        .any(|run| ending.eq_ignore_ascii_case(run));
    if SHOWN.contains(&essence(content_type)) && !runs {
        Treatment::Show
    } else {
        Treatment::Save
    }
}

/// The type that a file is served with: [`BYTES`] for what a browser runs, even where it is only told
/// to save it, because a page may embed it as a script, a style or a frame.
#[must_use]
pub fn served_type(content_type: &str) -> &str {
    let essence = essence(content_type);
    let (kind, subtype) = essence.split_once('/').unwrap_or((essence, ""));
    let runs = match kind {
        "text" => essence != "text/plain" && essence != "text/csv",
        "image" | "audio" | "video" | "font" => subtype.contains("xml"),
        "multipart" | "message" | "model" => true,
        _ => ["xml", "html", "script", "pdf", "flash", "wasm", "json"]
            .iter()
            .any(|part| subtype.contains(part)),
    };
    if runs { BYTES } else { content_type }
}

fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_lose_paths_and_what_cannot_be_seen() {
        for (said, told) in [
            ("photo.png", "photo.png"),
            ("../../etc/passwd", "passwd"),
            ("C:\\Users\\me\\a b.txt", "a b.txt"),
            ("a\r\nSet-Cookie: x=1", "aSet-Cookie: x=1"),
            ("a\0b", "ab"),
            ("evil\u{202e}gnp.exe", "evilgnp.exe"),
            ("图片.png", "图片.png"),
            ("", "file"),
            ("..", "file"),
            ("dir/", "file"),
            (" \t", "file"),
        ] {
            assert_eq!(name(said), told, "{said:?}");
        }
        assert_eq!(name(&"é".repeat(10_000)).len(), FILE_NAME_BYTES_MAX - 1);
    }

    #[test]
    fn content_types_are_told_only_when_they_are_one() {
        for (said, told) in [
            ("image/png", "image/png"),
            (
                "Text/Plain; Charset=\"UTF-8\"; x=y",
                "text/plain; charset=utf-8",
            ),
            ("image/png, text/html", BYTES),
            ("text/html\r\nx: y", BYTES),
            ("text", BYTES),
            ("/", BYTES),
            ("", BYTES),
            ("text/plain; charset=<script>", "text/plain"),
        ] {
            assert_eq!(content_type(said), told, "{said:?}");
        }
        assert_eq!(content_type(&format!("a/{}", "b".repeat(1_000))), BYTES);
        let longest = format!("{}/{}", "a".repeat(63), "b".repeat(63));
        assert_eq!(content_type(&format!("{longest}; charset=x")), longest);
        let fits = format!("a/b; charset={}", "c".repeat(63));
        assert_eq!(content_type(&fits), fits);
    }

    #[test]
    fn only_what_is_listed_is_shown_and_nothing_runs() {
        for shown in ["image/png", "text/plain; charset=utf-8", "video/mp4"] {
            assert_eq!(treatment(shown, "a.png"), Treatment::Show);
            assert_eq!(served_type(shown), shown);
            assert_eq!(treatment(shown, "a.HTML"), Treatment::Save);
        }
        for runs in [
            "text/html",
            "text/html; charset=utf-8",
            "application/xhtml+xml",
            "image/svg+xml",
            "text/xml",
            "application/xml",
            "text/javascript",
            "application/javascript",
            "application/ecmascript",
            "application/pdf",
            "text/css",
            "text/vbscript",
            "multipart/related",
            "message/rfc822",
        ] {
            assert_eq!(treatment(runs, "a"), Treatment::Save, "{runs}");
            assert_eq!(served_type(runs), BYTES, "{runs}");
        }
        assert_eq!(treatment("application/zip", "a.zip"), Treatment::Save);
        assert_eq!(served_type("application/zip"), "application/zip");
    }

    proptest! {
        #[test]
        fn whatever_is_said_can_be_told(said in any::<String>()) {
            let name = name(&said);
            prop_assert!((1..=FILE_NAME_BYTES_MAX).contains(&name.len()));
            prop_assert!(!name.contains(|c: char| c.is_control() || c == '/' || c == '\\'));
            let told = content_type(&said);
            prop_assert!(told.len() <= FILE_TYPE_BYTES_MAX && http::HeaderValue::from_str(&told).is_ok());
        }
    }
}
