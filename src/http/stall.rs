//! An end for connections whose peer takes nothing of what is sent to it. Hyper waits for such a peer for
//! ever, with whatever the answer comes from. The kernel sees best whether anything is taken: a socket
//! becomes writable again only when a good part of its buffer is free, which may be minutes of a slow
//! reader's.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};

use tokio::net::TcpStream;

/// Has the kernel end a connection of which its peer has taken nothing for too long, until this is
/// dropped: whoever upgraded the connection meanwhile has deadlines of its own.
#[derive(Debug)]
pub(super) struct StallGuard(OwnedFd);

impl StallGuard {
    /// # Errors
    /// When there is no descriptor left, or the connection is gone.
    pub(super) fn new(stream: &TcpStream, stall_max: Duration) -> io::Result<Self> {
        // The stream itself is hyper's, or already somebody's who upgraded, when this ends.
        let guard = Self(stream.as_fd().try_clone_to_owned()?);
        guard.set(Some(stall_max))?;
        Ok(guard)
    }

    #[cfg(target_os = "linux")]
    fn set(&self, stall_max: Option<Duration>) -> io::Result<()> {
        socket2::SockRef::from(&self.0).set_tcp_user_timeout(stall_max)
    }

    /// Only Linux does this.
    #[cfg(not(target_os = "linux"))]
    fn set(&self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for StallGuard {
    fn drop(&mut self) {
        // Fails only where the connection is gone.
        let _ = self.set(None);
    }
}
