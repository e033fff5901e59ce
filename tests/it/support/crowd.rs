//! Many users, devices and connections: made at the same time, a bounded number at once.

use std::future::Future;

use futures_util::{StreamExt, stream};

use super::{Api, Connection, Device, wire::BOTH};

/// Calls that one test has under way at the same time.
const AT_ONCE: usize = 32;

/// Runs all `tasks`, some at the same time; the results in their order.
pub async fn all<F: Future>(tasks: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    stream::iter(tasks).buffered(AT_ONCE).collect().await
}

impl Api {
    /// `count` new accounts, each on a new device, by ascending user id.
    pub async fn new_users(&self, count: usize) -> Vec<Device> {
        let create = async |phone: String| {
            let device_id = self.register_device().await;
            self.sign_in(&phone, device_id).await
        };
        by_id(all(phone_numbers(count).into_iter().map(create)).await)
    }

    /// `count` new accounts that are signed in nowhere, by ascending user id: a few devices pass
    /// through all of them. What is returned is good for its user id and for signing in again.
    pub async fn new_absent_users(&self, count: usize) -> Vec<Device> {
        let phones = phone_numbers(count);
        let parts = phones.chunks(count.div_ceil(AT_ONCE).max(1));
        let create = async |part: &[String]| {
            let device_id = self.register_device().await;
            let mut users = Vec::with_capacity(part.len());
            for phone in part {
                users.push(self.sign_in(phone, device_id).await);
            }
            users
        };
        by_id(all(parts.map(create)).await.concat())
    }

    /// A connection of each device, over TCP and WebSocket by turns.
    pub async fn connect_all(&self, devices: &[Device]) -> Vec<Connection> {
        let transports = BOTH.into_iter().cycle();
        let connect =
            async |(transport, device): (_, &Device)| self.connect(transport, device).await;
        all(transports.zip(devices).map(connect)).await
    }
}

/// The user ids of devices.
pub fn ids<'a>(users: impl IntoIterator<Item = &'a Device>) -> Vec<i64> {
    users.into_iter().map(|user| user.user_id).collect()
}

fn by_id(mut users: Vec<Device>) -> Vec<Device> {
    users.sort_by_key(|user| user.user_id);
    users
}

/// Phone numbers that differ from each other and from those of other tests.
fn phone_numbers(count: usize) -> Vec<String> {
    let first = rand::random_range(0..1_000_000_000_000_u64);
    let numbers = (first..).take(count);
    numbers.map(|number| format!("+2{number:013}")).collect()
}
