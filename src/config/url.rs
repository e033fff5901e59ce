//! What the configuration needs to know of URLs: their scheme, and how to show one without the
//! secrets it may carry.

/// The scheme of a URL and what stands behind `://` (SQLite also takes a plain `:`). `None` where
/// that form is missing, so that a secret in the wrong place is not taken for a scheme.
pub(super) fn split(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = match url.split_once("://") {
        Some(parts) => parts,
        None => ("sqlite", url.strip_prefix("sqlite:")?),
    };
    let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    (!scheme.is_empty() && scheme.chars().all(named)).then_some((scheme, rest))
}

/// A URL as it may be logged: without user info and without query and fragment, any of which may
/// bear a secret.
///
/// ```
/// let url = im::config::without_secrets("mysql://im:hunter2@db:3306/im?ssl-key=x");
/// assert_eq!(url, "mysql://***@db:3306/im?***");
/// ```
#[must_use]
pub fn without_secrets(url: &str) -> String {
    if url.is_empty() {
        return String::new();
    }
    let Some((scheme, rest)) = split(url) else {
        return "***".to_owned();
    };
    let (rest, query) = match rest.find(['?', '#']) {
        Some(at) => (&rest[..at], "?***"),
        None => (rest, ""),
    };
    // A password may contain '@' or '/': everything before the last '@' is user info.
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://***@{host}{query}"),
        None => format!("{scheme}://{rest}{query}"),
    }
}

#[cfg(test)]
mod tests {
    use super::without_secrets;

    #[test]
    fn secrets_in_urls_are_not_shown() {
        for (url, shown) in [
            ("", ""),
            ("sqlite://data/im.db", "sqlite://data/im.db"),
            ("sqlite:data/im.db", "sqlite://data/im.db"),
            ("redis://:p/a@ss@host:6379/0", "redis://***@host:6379/0"),
            ("https://host/hook?key=secret", "https://host/hook?***"),
            ("postgres://u@host/im#frag", "postgres://***@host/im?***"),
            ("secret", "***"),
            ("user:secret@host", "***"),
            ("my secret://host", "***"),
        ] {
            assert_eq!(without_secrets(url), shown, "{url}");
        }
    }
}
