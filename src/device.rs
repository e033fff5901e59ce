//! Devices: installations of clients. One is registered before anybody signs in on it and keeps
//! its id whoever does.

use std::sync::Arc;

pub use crate::store::device::Device;
use crate::{
    check,
    clock::Clock,
    error::{Code, Error, Result},
    id::DeviceId,
    limits::DEVICE_TEXT_BYTES_MAX,
    store::{self, Store, within_deadline},
};

/// What a client tells of the machine it runs on.
#[derive(Clone, Debug)]
pub struct Description {
    /// 1 Android, 2 iOS, 3 Windows, 4 macOS, 5 Web.
    pub kind: i32,
    /// Who made the machine.
    pub brand: String,
    /// Which machine it is.
    pub model: String,
    /// The version of its system.
    pub system_version: String,
    /// The version of the client's library.
    pub sdk_version: String,
}

/// The devices in this server's database.
#[derive(Clone, Debug)]
pub struct Devices {
    store: Store,
    clock: Arc<dyn Clock>,
}

impl Devices {
    /// The devices in `store`.
    #[must_use]
    pub fn new(store: Store, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock }
    }

    /// Registers a device and returns its id.
    ///
    /// # Errors
    /// [`Code::BadRequest`] naming the field, or [`Code::TryAgain`].
    pub async fn register(&self, description: Description) -> Result<DeviceId> {
        let kind = i16::try_from(description.kind)
            .ok()
            .filter(|kind| (1..=5).contains(kind))
            .ok_or_else(|| Error::bad_request("type", "1 to 5"))?;
        for (field, text) in [
            ("brand", &description.brand),
            ("model", &description.model),
            ("system_version", &description.system_version),
            ("sdk_version", &description.sdk_version),
        ] {
            check::text(field, text, DEVICE_TEXT_BYTES_MAX)?;
        }
        let now = self.clock.now_ms();
        let device = Device {
            id: 0,
            user_id: 0,
            session_gen: 0,
            r#type: kind,
            brand: description.brand,
            model: description.model,
            system_version: description.system_version,
            sdk_version: description.sdk_version,
            created_at: now,
            updated_at: now,
        };
        let tx = self.store.begin().await?;
        let id = within_deadline(store::device::insert(tx.conn(), device)).await?;
        within_deadline(tx.commit()).await?;
        Ok(id)
    }

    /// A device.
    ///
    /// # Errors
    /// [`Code::BadRequest`], [`Code::NoSuchDevice`], or [`Code::TryAgain`].
    pub async fn get(&self, device: DeviceId) -> Result<Device> {
        check::id("device_id", device.get())?;
        within_deadline(store::device::by_id(self.store.reader(), device))
            .await?
            .ok_or_else(|| Error::business(Code::NoSuchDevice, "no such device"))
    }
}
