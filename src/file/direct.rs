//! Uploads that go straight to the storage, where that can take them: the client says what it will
//! upload, is given a URL that takes exactly that, uses it, and says so.
//!
//! Invariant: the URL takes one content only, because its signature covers the checksum and the storage
//! checks it. So nobody can change a file with a URL that is still good. The signature cannot cover the
//! length: what is longer than was said, though it has the checksum, is removed when it is completed, or
//! by the sweep when it never is.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    Description, Digest, File, Files, Key, file, is, label, no_such_file, sweep::Leftover,
};
use crate::{
    error::{Code, Error, Result},
    id::UserId,
    limits::{DIRECT_UPLOAD_MAX, UPLOAD_PENDING_MAX},
    store::file::State,
};

/// What a client is to do.
#[derive(Debug)]
pub struct Ticket {
    /// Which file it will be.
    pub key: Key,
    /// Where to `PUT` it.
    pub upload_url: String,
    /// What to send with it, exactly.
    pub headers: [(&'static str, String); 2],
    /// How long the URL is good.
    pub expires_in: Duration,
}

impl Files {
    /// Gives `owner` a URL of the storage that takes a file of `size` bytes with the checksum `sha256`.
    ///
    /// # Errors
    /// [`Code::BadRequest`] when the file is too large or the storage has no such URLs.
    pub async fn ticket(
        &self,
        owner: UserId,
        what: Description,
        size: u64,
        sha256: Digest,
    ) -> Result<Ticket> {
        if size > self.size_max {
            let why = format!("at most {} bytes", self.size_max);
            return Err(Error::bad_request("size", why));
        }
        let key = Key::generate();
        let headers = [
            // The storage serves it with this type, and without what we say beside it.
            (
                "content-type",
                label::served_type(&what.content_type).to_owned(),
            ),
            ("x-amz-checksum-sha256", STANDARD.encode(sha256)),
        ];
        let upload_url = self
            .storage
            .sign_put(key, &headers, DIRECT_UPLOAD_MAX)
            .await?
            .ok_or_else(|| {
                let why = "this server keeps files in a folder, use POST /upload";
                Error::business(Code::BadRequest, why)
            })?;
        let size = i64::try_from(size).map_err(|_| Error::bad_request("size", "too large"))?;
        let mut row = self.pending(key, owner, what);
        (row.size, row.sha256) = (size, sha256.to_vec());
        self.insert(row).await?;
        Ok(Ticket {
            key,
            upload_url,
            headers,
            expires_in: DIRECT_UPLOAD_MAX,
        })
    }

    /// Makes a file that `owner` has uploaded with a [`Ticket`] one that can be got. Repeating it does
    /// no harm.
    ///
    /// # Errors
    /// [`Code::NoSuchFile`] when he has no such ticket, or the storage does not have the file;
    /// [`Code::BadRequest`] when it has another size than was said, and then it is removed.
    pub async fn complete(&self, owner: UserId, key: Key) -> Result<Arc<File>> {
        const _: () = assert!(2 * DIRECT_UPLOAD_MAX.as_millis() < UPLOAD_PENDING_MAX.as_millis());
        let row = self.row(key).await?;
        let row = row.filter(|row| row.user_id == owner.get() && !is(row, State::Discarded));
        let row = row.ok_or_else(no_such_file)?;
        if is(&row, State::Stored) {
            return self.find(key).await;
        }
        let Ok(sha256) = Digest::try_from(row.sha256.as_slice()) else {
            // It comes through `POST /upload`, and is not whole.
            return Err(no_such_file());
        };
        let size = self.storage.size(key).await?.ok_or_else(|| {
            Error::business(Code::NoSuchFile, "the storage does not have the file yet")
        })?;
        if i64::try_from(size) != Ok(row.size) {
            self.clean_up(key, Leftover::MayCome).await;
            let why = format!("{size} bytes were uploaded, {} were announced", row.size);
            return Err(Error::bad_request("size", why));
        }
        self.keep(&row, size, &sha256).await?;
        self.metrics.uploads.bytes.inc_by(size);
        Ok(Arc::new(file(key, row)?))
    }
}
