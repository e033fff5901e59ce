//! Signing in with passwords.

use futures_util::future::join_all;

use super::{NUMBER, TEST_CODE, by_code, by_password, code_of, signed_in};
use crate::{error::Code, id::DeviceId, testing::World};

#[tokio::test]
async fn password_signs_in_and_signs_the_other_devices_out() {
    let world = World::new().await;
    let (device, other) = (world.device().await, world.device().await);
    let here = signed_in(&world, by_code(NUMBER, TEST_CODE, device)).await;
    let there = signed_in(&world, by_code(NUMBER, TEST_CODE, other)).await;
    let set = |password: &str| {
        world
            .accounts
            .set_password(here.user, device, password.into())
    };
    for bad in ["1234567", &"x".repeat(129)] {
        assert!(set(bad).await.unwrap_err().is(Code::BadRequest));
    }
    set("pässwörd").await.unwrap();
    let auth = &world.authenticator;
    auth.authorize(here.user, device, &here.token)
        .await
        .unwrap();
    assert!(
        auth.authorize(there.user, other, &there.token)
            .await
            .is_err()
    );

    let again = signed_in(&world, by_password(NUMBER, "pässwörd", other)).await;
    assert_eq!((again.user, again.is_new), (here.user, false));
}

#[tokio::test]
async fn wrong_password_does_not_tell_whether_a_number_exists() {
    let world = World::new().await;
    let (device, stranger) = (world.device().await, world.device().await);
    let owner = signed_in(&world, by_code(NUMBER, TEST_CODE, device)).await;
    let no_password = wrong_password(&world, NUMBER, stranger).await;
    let set = world
        .accounts
        .set_password(owner.user, device, "password".into());
    set.await.unwrap();
    let wrong = wrong_password(&world, NUMBER, stranger).await;
    let nobody = wrong_password(&world, "1000000", stranger).await;
    assert_eq!(no_password, wrong);
    assert_eq!(wrong, nobody);
}

async fn wrong_password(world: &World, number: &str, device: DeviceId) -> String {
    let answer = world
        .accounts
        .sign_in(by_password(number, "wrong password", device));
    answer.await.unwrap_err().to_string()
}

#[tokio::test]
async fn attacker_does_not_lock_the_owner_out_of_a_known_device() {
    let world = World::new().await;
    let (known, foreign) = (world.device().await, world.device().await);
    let owner = signed_in(&world, by_code(NUMBER, TEST_CODE, known)).await;
    let set = world
        .accounts
        .set_password(owner.user, known, "password".into());
    set.await.unwrap();

    let attack = (0..20).map(|_| code_of(&world, by_password(NUMBER, "guess", foreign)));
    let answers = join_all(attack).await;
    let wrong = answers
        .iter()
        .filter(|a| **a == Some(Code::WrongCode))
        .count();
    assert_eq!(wrong, 5, "{answers:?}");
    let foreign_right = code_of(&world, by_password(NUMBER, "password", foreign)).await;
    assert_eq!(foreign_right, Some(Code::TooManyRequests));
    signed_in(&world, by_password(NUMBER, "password", known)).await;

    for _ in 0..5 {
        let answer = code_of(&world, by_password(NUMBER, "typo", known)).await;
        assert_eq!(answer, Some(Code::WrongCode));
    }
    let exhausted = code_of(&world, by_password(NUMBER, "password", known)).await;
    assert_eq!(exhausted, Some(Code::TooManyRequests));
}

#[tokio::test]
async fn right_passwords_at_the_same_time_are_all_accepted() {
    let world = World::new().await;
    let device = world.device().await;
    let owner = signed_in(&world, by_code(NUMBER, TEST_CODE, device)).await;
    let set = world
        .accounts
        .set_password(owner.user, device, "password".into());
    set.await.unwrap();
    let mut devices = Vec::new();
    for _ in 0..8 {
        devices.push(world.device().await);
    }
    let sign_ins = devices
        .iter()
        .map(|d| code_of(&world, by_password(NUMBER, "password", *d)));
    assert_eq!(join_all(sign_ins).await, [None; 8]);
}
