//! Many devices that are online together, talking in pairs: coming online, and what the checker
//! says of them at the end.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::Semaphore, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    Bench,
    accounts::Account,
    check::Verdict,
    device::{Content, Device, Driver},
    open::{Opened, Opening, open_all},
    tally::Tally,
};
use crate::error::{Error, Result};

/// How often the end of a run looks whether everything has arrived.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The time a second copy of a message has to show up after everything has arrived.
const SETTLE: Duration = Duration::from_millis(300);

/// Devices that are online; the device 2n talks to the device 2n + 1.
#[derive(Debug)]
pub struct Fleet {
    /// The devices, by their index.
    pub devices: Vec<Arc<Device>>,
    /// Those of them that send.
    pub senders: Vec<Arc<Device>>,
    /// What they count.
    pub tally: Arc<Tally>,
    /// One permit per send over a connection that was answered.
    pub answered: Arc<Semaphore>,
    /// Ends sending before its time.
    pub stop_sending: CancellationToken,
    grace: Duration,
}

impl Fleet {
    /// Brings an even number of `accounts` online.
    pub async fn connect(bench: &Bench, accounts: Vec<Account>, content: Content) -> Result<Self> {
        let accounts: Arc<[Account]> = accounts.into();
        let opened = Arc::new(Opened::default());
        let connections = open_all(bench, &accounts, Opening::calm(bench), &opened).await?;
        if let Some((kind, count, example)) = opened.failures.list().into_iter().next() {
            let what = format!("{count} devices did not come online: {kind}; {example}");
            return Err(Error::internal(what));
        }
        let tally = Arc::new(Tally::new());
        let answered = Arc::new(Semaphore::new(0));
        let mut devices = Vec::with_capacity(accounts.len());
        for (index, connection) in connections.into_iter().flatten().enumerate() {
            let peer = accounts[index ^ 1].user_id;
            let (account, shared) = (accounts[index].clone(), (&tally, &answered));
            let device = Device::new(index as u32, account, peer, content, shared);
            let device = Arc::new(device);
            let driver = Driver::new(Arc::clone(&device), connection, bench.common.heartbeat);
            bench.tasks.spawn(driver.run());
            devices.push(device);
        }
        Ok(Self {
            senders: devices.clone(),
            devices,
            tally,
            answered,
            stop_sending: CancellationToken::new(),
            grace: bench.common.grace,
        })
    }

    /// The device 2n sends to the device 2n + 1, which is silent.
    pub fn one_way(mut self) -> Self {
        self.senders = self.devices.iter().step_by(2).cloned().collect();
        self
    }

    /// Waits until every acknowledged message has arrived, at most the time of grace.
    pub async fn settle(&self) {
        let begun = Instant::now();
        while self.lacking() > 0 && begun.elapsed() < self.grace {
            sleep(LOOK_EVERY).await;
        }
        sleep(SETTLE).await;
    }

    /// Settles, ends the connections and says what the checker found.
    pub async fn finish(&self) -> Verdict {
        self.settle().await;
        for device in &self.devices {
            device.stop();
        }
        self.verdict()
    }

    /// Acknowledged messages that have not arrived where the connection is still there.
    fn lacking(&self) -> u64 {
        let open = self.pairs().filter(|(_, receiver)| !receiver.is_closed());
        open.map(|(sender, receiver)| receiver.lacks(sender)).sum()
    }

    /// Every sender with its receiver.
    fn pairs(&self) -> impl Iterator<Item = (&Device, &Device)> {
        let receiver = |sender: &Device| &*self.devices[sender.index as usize ^ 1];
        self.devices
            .iter()
            .map(move |sender| (&**sender, receiver(sender)))
    }

    fn verdict(&self) -> Verdict {
        let mut verdict = Verdict::default();
        for (sender, receiver) in self.pairs() {
            let lacks = receiver.lacks(sender);
            match receiver.is_closed() {
                true => verdict.unverified += lacks,
                false => verdict.lost += lacks,
            }
            sender.add_to(&mut verdict);
        }
        verdict
    }
}
