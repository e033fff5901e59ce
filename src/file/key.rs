//! The key of a file: a random number that nobody guesses, which is all that is needed to get the file.
//!
//! Invariant: a key is made here or is 32 hexadecimal digits, so no text of a client ever names anything
//! in the storage.

use std::fmt;

/// Which file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(u128);

impl Key {
    /// A new key of 128 random bits.
    #[must_use]
    pub fn generate() -> Self {
        Self(rand::random())
    }

    /// The key that `text` spells, as [`fmt::Display`] does; no other spelling is one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        (digits && text.len() == 32)
            .then(|| u128::from_str_radix(text, 16).ok())
            .flatten()
            .map(Self)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Key;

    #[test]
    fn only_32_digits_are_a_key() {
        let key = Key::generate();
        let text = key.to_string();
        assert_eq!(Key::parse(&text), Some(key));
        assert_eq!(Key(5).to_string().len(), 32);
        for wrong in [
            "",
            &text[1..],
            &format!("{text}0"),
            "../../../../../../../../etc/passw",
            &"G".repeat(32),
            &"A".repeat(32),
            &format!("+{}", &text[1..]),
            &"é".repeat(16),
        ] {
            assert_eq!(Key::parse(wrong), None, "{wrong}");
        }
    }
}
