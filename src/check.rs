//! Checks of single fields that several domains share; each refusal names the field as the contract
//! does. What only one domain knows is checked there.

use crate::error::{Error, Result};

/// Refuses an id that is not positive.
///
/// # Errors
/// [`Code::BadRequest`](crate::error::Code::BadRequest) naming `field`.
pub fn id(field: &str, id: i64) -> Result<()> {
    if id > 0 {
        Ok(())
    } else {
        Err(Error::bad_request(field, "must be positive"))
    }
}

/// Refuses a text that is longer than `bytes_max`, or that not every database can hold.
///
/// # Errors
/// [`Code::BadRequest`](crate::error::Code::BadRequest) naming `field`.
pub fn text(field: &str, text: &str, bytes_max: usize) -> Result<()> {
    if text.len() > bytes_max {
        return Err(Error::bad_request(
            field,
            format_args!("at most {bytes_max} bytes"),
        ));
    }
    if text.contains('\0') {
        return Err(Error::bad_request(field, "must not contain U+0000"));
    }
    Ok(())
}
