//! The body of an upload as it arrives: not too slowly, and with not too much around the file.

use std::{pin::pin, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    answer::Refusal,
    multipart::{Event, Parser, broken},
};
use crate::{
    file::Files,
    limits::{
        UPLOAD_BYTES_PER_S_MIN, UPLOAD_GRACE, UPLOAD_LINGER_MAX, UPLOAD_MAX,
        UPLOAD_OVERHEAD_BYTES_MAX, UPLOAD_STALL_MAX,
    },
};

/// A body that is being taken apart.
#[derive(Debug)]
pub(super) struct Arrival<'a> {
    body: &'a mut Body,
    parser: Parser,
    begun: Instant,
    received: u64,
    /// How much of it was the file.
    file_bytes: u64,
}

impl<'a> Arrival<'a> {
    pub(super) fn new(body: &'a mut Body, boundary: &str) -> Self {
        Self {
            body,
            parser: Parser::new(boundary),
            begun: Instant::now(),
            received: 0,
            file_bytes: 0,
        }
    }

    /// What comes next; the last is [`Event::End`], when the body has ended too.
    pub(super) async fn next(&mut self) -> Result<Event, Refusal> {
        loop {
            let event = self.parser.next()?;
            match event {
                Some(Event::End) | None => {}
                Some(event) => return Ok(event),
            }
            match self.receive().await? {
                Some(bytes) => self.parser.feed(&bytes),
                None if event.is_some() => return Ok(Event::End),
                None => return Err(broken("it ended before its last boundary").into()),
            }
        }
    }

    /// Counts bytes as the file's, so that they are not too much around it.
    pub(super) const fn count_file(&mut self, bytes: usize) -> u64 {
        self.file_bytes += bytes as u64;
        self.file_bytes
    }

    async fn receive(&mut self) -> Result<Option<Bytes>, Refusal> {
        loop {
            let frame = timeout_at(self.deadline(), self.body.frame()).await;
            let Some(frame) = frame.map_err(|_| Refusal::TooSlow)? else {
                return Ok(None);
            };
            let Ok(bytes) = frame.map_err(|_| Refusal::CutOff)?.into_data() else {
                continue;
            };
            // What was received before is known to be the file or not; this is not, so it counts next.
            if self.received - self.file_bytes > UPLOAD_OVERHEAD_BYTES_MAX as u64 {
                return Err(broken("too much around the file").into());
            }
            self.received += bytes.len() as u64;
            return Ok(Some(bytes));
        }
    }

    /// When the next bytes must have come.
    fn deadline(&self) -> Instant {
        let earned = Duration::from_secs(self.received / UPLOAD_BYTES_PER_S_MIN);
        let whole = self.begun + UPLOAD_MAX.min(UPLOAD_GRACE + earned);
        whole.min(Instant::now() + UPLOAD_STALL_MAX)
    }
}

/// Goes on reading what comes of a request that is answered already: else a client that writes all
/// before it reads would find its connection reset, and no answer.
pub(super) fn linger(files: &Files, headers: &HeaderMap, mut body: Body) {
    // Whoever waits to be asked for the body does not send it now.
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let draining = files.draining().clone();
    files.tasks().spawn(async move {
        let read = async { while let Some(Ok(_)) = body.frame().await {} };
        let read = pin!(draining.run_until_cancelled(read));
        // Until then or not, there is nothing more to be done.
        let _ended = timeout(UPLOAD_LINGER_MAX, read).await;
    });
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt as _, stream};

    use super::*;

    /// A body whose pieces come so far apart, after a good beginning.
    fn body(piece: &'static [u8], apart: Duration) -> Body {
        const BEGINNING: &[u8] = b"--x\r\nContent-Disposition: form-data; name=file\r\n\r\n";
        let beginning = stream::once(async { Ok::<_, std::io::Error>(BEGINNING) });
        let pieces = stream::repeat(piece).then(move |piece| async move {
            tokio::time::sleep(apart).await;
            Ok(piece)
        });
        Body::from_stream(beginning.chain(pieces))
    }

    /// How long a body is read until it is refused, and why.
    async fn refused(mut body: Body) -> (Duration, Refusal) {
        let begun = Instant::now();
        let mut arrival = Arrival::new(&mut body, "x");
        loop {
            match arrival.next().await {
                Ok(Event::Data(bytes)) => {
                    arrival.count_file(bytes.len());
                }
                Ok(event) => assert!(matches!(event, Event::Part(_)), "{event:?}"),
                Err(refusal) => return (begun.elapsed(), refusal),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_silent_or_drips_or_never_ends_is_too_slow() {
        let (after, why) = refused(body(b"x", 2 * UPLOAD_STALL_MAX)).await;
        assert!(matches!(why, Refusal::TooSlow));
        assert!(after >= UPLOAD_STALL_MAX && after < UPLOAD_STALL_MAX * 2);

        let (after, why) = refused(body(b"drip", UPLOAD_STALL_MAX / 3)).await;
        assert!(matches!(why, Refusal::TooSlow));
        assert!(after >= UPLOAD_GRACE && after < UPLOAD_GRACE * 2);

        let (after, why) = refused(body(&[7; 64 * 1024], Duration::from_secs(5))).await;
        assert!(matches!(why, Refusal::TooSlow));
        assert!(after >= UPLOAD_MAX && after < UPLOAD_MAX + UPLOAD_STALL_MAX);
    }
}
