//! Signing in with codes, which a real webhook receives.

use std::{collections::HashSet, sync::atomic::Ordering};

use futures_util::future::join_all;

use super::{
    NUMBER, TEST_CODE, by_code, code_of, from, names_field, other_than, signed_in,
    world_with_webhook,
};
use crate::{
    error::Code,
    id::{DeviceId, UserId},
    limits::{ATTEMPT_WINDOW, ATTEMPTS_PER_ADDRESS_MAX, CODE_INTERVAL, CODE_TTL},
    testing::World,
    user::SignIn,
};

#[tokio::test]
async fn sent_code_makes_the_account_once_and_is_used_up() {
    let (world, webhook) = world_with_webhook().await;
    let device = world.device().await;
    world.accounts.send_code(NUMBER.into()).await.unwrap();
    let code = webhook.last();
    let unknown = code_of(&world, by_code(NUMBER, &code, DeviceId(99))).await;
    assert_eq!(unknown, Some(Code::NoSuchDevice));

    let first = signed_in(&world, by_code(NUMBER, &code, device)).await;
    assert!(first.is_new);
    let authorized = world
        .authenticator
        .authorize(first.user, device, &first.token);
    authorized.await.unwrap();
    let again = code_of(&world, by_code(NUMBER, &code, device)).await;
    assert_eq!(again, Some(Code::WrongCode));

    world.clock.advance_ms(CODE_INTERVAL.as_millis() as i64);
    world.accounts.send_code(NUMBER.into()).await.unwrap();
    let second = signed_in(&world, by_code(NUMBER, &webhook.last(), device)).await;
    assert!(!second.is_new);
    assert_eq!(second.user, first.user);
    let old = world
        .authenticator
        .authorize(first.user, device, &first.token);
    assert!(old.await.is_err(), "the new token replaces the old one");
}

#[tokio::test]
async fn code_expires_and_is_sent_once_a_minute() {
    let (world, webhook) = world_with_webhook().await;
    let device = world.device().await;
    world.accounts.send_code(NUMBER.into()).await.unwrap();
    world.clock.advance_ms(CODE_INTERVAL.as_millis() as i64 - 1);
    let early = world.accounts.send_code(NUMBER.into()).await.unwrap_err();
    assert!(early.is(Code::TooManyRequests));
    world
        .clock
        .advance_ms((CODE_TTL - CODE_INTERVAL).as_millis() as i64 + 1);
    let expired = code_of(&world, by_code(NUMBER, &webhook.last(), device)).await;
    assert_eq!(expired, Some(Code::WrongCode));
}

#[tokio::test]
async fn code_that_could_not_be_sent_is_forgotten_at_once() {
    let (world, webhook) = world_with_webhook().await;
    let device = world.device().await;
    for status in [500, 302] {
        webhook.status.store(status, Ordering::SeqCst);
        let failed = world.accounts.send_code(NUMBER.into()).await.unwrap_err();
        assert!(failed.is(Code::TryAgain), "{failed:?}");
    }
    let lost = code_of(&world, by_code(NUMBER, &webhook.last(), device)).await;
    assert_eq!(lost, Some(Code::WrongCode));
    webhook.status.store(200, Ordering::SeqCst);
    world.accounts.send_code(NUMBER.into()).await.unwrap();
    signed_in(&world, by_code(NUMBER, &webhook.last(), device)).await;
}

#[tokio::test]
async fn wrong_codes_are_bounded_for_the_right_one_too() {
    let (world, webhook) = world_with_webhook().await;
    let device = world.device().await;
    world.accounts.send_code(NUMBER.into()).await.unwrap();
    let code = webhook.last();
    let wrong = other_than(&code);
    // A good sign-in in between is not counted and does not begin the count anew.
    for attempt in 0..5 {
        let answer = code_of(&world, by_code(NUMBER, &wrong, device)).await;
        assert_eq!(answer, Some(Code::WrongCode), "attempt {attempt}");
        if attempt < 4 {
            signed_in(&world, by_code(NUMBER, TEST_CODE, device)).await;
        }
    }
    for refused in [&code, &wrong, TEST_CODE] {
        let answer = code_of(&world, by_code(NUMBER, refused, device)).await;
        assert_eq!(answer, Some(Code::TooManyRequests));
    }
    world.clock.advance_ms(ATTEMPT_WINDOW.as_millis() as i64);
    signed_in(&world, by_code(NUMBER, TEST_CODE, device)).await;
}

#[tokio::test]
async fn concurrent_wrong_codes_cannot_exceed_the_bound() {
    let world = World::new().await;
    let device = world.device().await;
    // No code was ever sent to this number, and it has no account.
    let attempts = (0..40).map(|_| code_of(&world, by_code(NUMBER, "000000", device)));
    let answers = join_all(attempts).await;
    let count = |code| answers.iter().filter(|a| **a == Some(code)).count();
    assert_eq!(count(Code::WrongCode), 5);
    assert_eq!(count(Code::TooManyRequests), 35);
}

#[tokio::test]
async fn wrong_codes_from_one_network_are_bounded() {
    let world = World::new().await;
    let device = world.device().await;
    let attempts = (0..150).map(|number| {
        let number = (1_000_000 + number).to_string();
        let sign_in = by_code(&number, "000000", device);
        let world = &world;
        async move { code_of(world, sign_in).await }
    });
    let answers = join_all(attempts).await;
    let wrong = answers
        .iter()
        .filter(|a| **a == Some(Code::WrongCode))
        .count();
    assert_eq!(wrong, ATTEMPTS_PER_ADDRESS_MAX as usize);
    let here = code_of(&world, by_code(NUMBER, TEST_CODE, device)).await;
    assert_eq!(here, Some(Code::TooManyRequests));
    signed_in(
        &world,
        from([192, 0, 2, 2], by_code(NUMBER, TEST_CODE, device)),
    )
    .await;
    world.clock.advance_ms(ATTEMPT_WINDOW.as_millis() as i64);
    signed_in(&world, by_code(NUMBER, TEST_CODE, device)).await;
}

#[tokio::test]
async fn concurrent_first_sign_ins_make_one_account() {
    let world = World::new().await;
    let mut devices = Vec::new();
    for _ in 0..10 {
        devices.push(world.device().await);
    }
    let sign_ins = devices
        .iter()
        .map(|d| signed_in(&world, by_code(NUMBER, TEST_CODE, *d)));
    let sign_ins = join_all(sign_ins).await;
    assert_eq!(sign_ins.iter().filter(|s| s.is_new).count(), 1);
    let users: HashSet<UserId> = sign_ins.iter().map(|s| s.user).collect();
    assert_eq!(users.len(), 1);
    for (device, sign_in) in devices.iter().zip(&sign_ins) {
        let authorized = world
            .authenticator
            .authorize(sign_in.user, *device, &sign_in.token);
        authorized.await.unwrap();
    }
}

#[tokio::test]
async fn device_that_changes_its_user_loses_the_former_token() {
    let world = World::new().await;
    let device = world.device().await;
    let first = signed_in(&world, by_code(NUMBER, TEST_CODE, device)).await;
    let second = signed_in(&world, by_code("1000000", TEST_CODE, device)).await;
    assert_ne!(first.user, second.user);
    let former = world
        .authenticator
        .authorize(first.user, device, &first.token);
    assert!(former.await.is_err());
    assert_eq!(
        world.devices.get(device).await.unwrap().user_id,
        second.user.0
    );
}

#[tokio::test]
async fn sign_in_names_the_field_that_is_wrong() {
    let world = World::new().await;
    let device = world.device().await;
    let both = SignIn {
        password: "password".into(),
        ..by_code(NUMBER, TEST_CODE, device)
    };
    for (field, sign_in) in [
        ("phone_number", by_code("12a45", TEST_CODE, device)),
        ("device_id", by_code(NUMBER, TEST_CODE, DeviceId(0))),
        ("device_id", by_code(NUMBER, TEST_CODE, DeviceId(-1))),
        ("code", by_code(NUMBER, "", device)),
        ("code", both),
    ] {
        names_field(world.accounts.sign_in(sign_in).await, field);
    }
}
