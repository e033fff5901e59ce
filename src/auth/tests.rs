//! Tokens against a real database: expiry, revocation, the bound on devices.

use std::sync::Arc;

use super::Credential;
use crate::{
    delivery::handle::{self, Eviction, Handle},
    error::{Code, Result},
    id::{DeviceId, UserId},
    testing::{World, sign_in_config},
};

const USER: UserId = UserId(7);
const DAY_MS: i64 = 24 * 3600 * 1000;

/// Signs `USER` in on a device, as a sign-in does.
async fn issue(world: &World, device: DeviceId) -> String {
    let tx = world.store.begin().await.unwrap();
    let now = crate::clock::Clock::now_ms(&*world.clock);
    let assigned = crate::store::device::assign(tx.conn(), device, USER, now).await;
    assert!(assigned.unwrap());
    let issued = world.authenticator.issue(tx.conn(), USER, device).await;
    let issued = issued.unwrap();
    let commit = world.authenticator.commit_revoking(tx, issued.revoked);
    commit.await.unwrap();
    issued.token
}

/// A session of `device` that is signed in.
fn session(world: &World, device: DeviceId) -> Arc<Handle> {
    let handle = Arc::new(Handle::new(device));
    world.registry.enter(&handle);
    let credential = handle::Credential {
        user: USER,
        generation: 1,
        token_hash: [0; 32],
        expires_at: i64::MAX,
    };
    world.registry.sign_in(&handle, credential);
    handle
}

fn refused(result: Result<Credential>) -> bool {
    result.is_err_and(|error| error.is(Code::SignInAgain))
}

#[tokio::test]
async fn token_signs_in_its_user_on_its_device_only() {
    let world = World::new().await;
    let (device, other) = (world.device().await, world.device().await);
    let token = issue(&world, device).await;
    let other_token = issue(&world, other).await;
    let auth = &world.authenticator;
    for _cached in [false, true] {
        let credential = auth.authorize(USER, device, &token).await.unwrap();
        assert_eq!(credential.user, USER);
        assert!(refused(auth.authorize(UserId(8), device, &token).await));
        assert!(refused(auth.authorize(USER, other, &token).await));
        assert!(refused(auth.authorize(USER, device, &other_token).await));
        assert!(refused(auth.authorize(USER, device, "").await));
        assert!(refused(auth.authorize(USER, DeviceId(99), &token).await));
    }
}

#[tokio::test]
async fn token_expires_by_the_clock_though_it_is_cached() {
    let world = World::new().await;
    let device = world.device().await;
    let token = issue(&world, device).await;
    let auth = &world.authenticator;
    auth.authorize(USER, device, &token).await.unwrap();
    world.clock.advance_ms(90 * DAY_MS - 1);
    auth.authorize(USER, device, &token).await.unwrap();
    world.clock.advance_ms(1);
    assert!(refused(auth.authorize(USER, device, &token).await));
}

#[tokio::test]
async fn revocation_takes_effect_at_once_on_cache_and_sessions() {
    let world = World::new().await;
    let (device, other) = (world.device().await, world.device().await);
    let token = issue(&world, device).await;
    let other_token = issue(&world, other).await;
    let auth = &world.authenticator;
    auth.authorize(USER, device, &token).await.unwrap();
    auth.authorize(USER, other, &other_token).await.unwrap();
    let (mine, others) = (session(&world, device), session(&world, other));

    auth.revoke_device(UserId(8), device).await.unwrap();
    auth.authorize(USER, device, &token).await.unwrap();
    assert_eq!(mine.eviction(), None, "another user cannot revoke it");

    auth.revoke_device(USER, device).await.unwrap();
    assert!(refused(auth.authorize(USER, device, &token).await));
    assert_eq!(mine.eviction(), Some(Eviction::SignedOut));
    assert_eq!(others.eviction(), None);
    auth.authorize(USER, other, &other_token).await.unwrap();

    auth.revoke_user(USER).await.unwrap();
    assert!(refused(auth.authorize(USER, other, &other_token).await));
    assert_eq!(others.eviction(), Some(Eviction::SignedOut));
}

#[tokio::test]
async fn revocation_is_finished_though_its_caller_goes_away() {
    let world = World::new().await;
    let device = world.device().await;
    let token = issue(&world, device).await;
    let auth = &world.authenticator;
    auth.authorize(USER, device, &token).await.unwrap();
    let handle = session(&world, device);
    let tx = world.store.begin().await.unwrap();
    let revoked = auth.delete_tokens(tx.conn(), USER, None).await.unwrap();
    {
        let mut commit = std::pin::pin!(auth.commit_revoking(tx, revoked));
        assert!(futures_util::poll!(commit.as_mut()).is_pending());
    }
    auth.tasks.finished().await;
    assert_eq!(handle.eviction(), Some(Eviction::SignedOut));
    assert!(refused(auth.authorize(USER, device, &token).await));
}

#[tokio::test]
async fn device_longest_unused_is_signed_out_beyond_the_bound() {
    let world = World::with(&sign_in_config(), 2).await;
    let mut signed_in = Vec::new();
    for _ in 0..3 {
        signed_in.push((world.device().await, String::new()));
    }
    for (device, token) in &mut signed_in[..2] {
        world.clock.advance_ms(1_000);
        *token = issue(&world, *device).await;
    }
    // The first is used again, so the second is the one longest unused.
    world.clock.advance_ms(1_000);
    signed_in[0].1 = issue(&world, signed_in[0].0).await;
    world.clock.advance_ms(1_000);
    signed_in[2].1 = issue(&world, signed_in[2].0).await;

    let auth = &world.authenticator;
    for (position, (device, token)) in signed_in.iter().enumerate() {
        let authorized = auth.authorize(USER, *device, token).await;
        assert_eq!(authorized.is_ok(), position != 1, "device {position}");
    }
}

#[tokio::test]
async fn new_token_replaces_the_old_one_and_ends_its_sessions() {
    let world = World::new().await;
    let device = world.device().await;
    let old = issue(&world, device).await;
    let auth = &world.authenticator;
    auth.authorize(USER, device, &old).await.unwrap();
    let handle = session(&world, device);
    let new = issue(&world, device).await;
    assert!(refused(auth.authorize(USER, device, &old).await));
    auth.authorize(USER, device, &new).await.unwrap();
    assert_eq!(handle.eviction(), Some(Eviction::SignedOut));
}
