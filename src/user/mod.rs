//! The built-in accounts: signing in with codes and passwords, and what users tell of themselves; and
//! the directory of profiles that delivery reads, wherever accounts are kept. Tokens are `auth`'s
//! matter.

use crate::{
    error::{Error, Result},
    limits::PHONE_NUMBER_BYTES_MAX,
};

mod accounts;
mod code;
mod directory;
mod remote;
mod sign_in;
#[cfg(test)]
mod tests;

pub use crate::store::user::{Changes, User};
pub use accounts::Accounts;
pub use directory::{Directory, Profile};
pub use sign_in::{SignIn, SignedIn};

/// Fewest digits of a phone number.
const PHONE_NUMBER_DIGITS_MIN: usize = 5;

/// Refuses what is no phone number: a plus sign or none, then 5 to 15 digits.
fn check_phone_number(number: &str) -> Result<()> {
    let digits = number.strip_prefix('+').unwrap_or(number);
    let bounds = PHONE_NUMBER_DIGITS_MIN..PHONE_NUMBER_BYTES_MAX;
    if bounds.contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()) {
        Ok(())
    } else {
        Err(Error::bad_request(
            "phone_number",
            "5 to 15 digits, with or without a plus sign before them",
        ))
    }
}
