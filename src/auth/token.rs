//! Tokens: 32 random bytes, which travel as 64 lower-case hexadecimal digits. Only their SHA-256
//! is stored and cached, so that neither a copy of the database nor of the memory signs anybody in.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

const BYTES: usize = 32;

/// A new token and its hash.
#[must_use]
pub fn generate() -> (String, [u8; 32]) {
    let bytes: [u8; BYTES] = rand::random();
    let mut text = String::with_capacity(2 * BYTES);
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    (text, Sha256::digest(bytes).into())
}

/// The hash of a token, or `None` for a text that is no token.
#[must_use]
pub fn hash(token: &str) -> Option<[u8; 32]> {
    let digits = token.as_bytes();
    if digits.len() != 2 * BYTES {
        return None;
    }
    let mut bytes = [0; BYTES];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(Sha256::digest(bytes).into())
}

const fn digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{generate, hash};

    #[test]
    fn generated_token_has_the_hash_that_came_with_it() {
        let (token, expected) = generate();
        assert_eq!(token.len(), 64);
        assert_eq!(hash(&token), Some(expected));
        assert_ne!(generate().0, token);
    }

    #[test]
    fn what_is_no_token_has_no_hash() {
        let (token, _) = generate();
        for text in ["", "0", &token[1..], &format!("{token}0"), &"g".repeat(64)] {
            assert_eq!(hash(text), None, "{text}");
        }
        assert_eq!(hash(&"A".repeat(64)), None, "upper case is another text");
        assert_eq!(hash(&"é".repeat(32)), None);
    }
}
