//! Reading, changing and finding users.

use super::{NUMBER, TEST_CODE, by_code, names_field, signed_in};
use crate::{
    error::{Code, Error, Result},
    id::{DeviceId, UserId},
    testing::World,
    user::{Changes, check_phone_number},
};

fn changes(nickname: &str) -> Changes {
    Changes {
        nickname: nickname.into(),
        sex: 2,
        avatar_url: "http://picture".into(),
        extra: "{}".into(),
    }
}

#[tokio::test]
async fn update_replaces_every_field_and_the_cached_profile() {
    let world = World::new().await;
    let device = world.device().await;
    let user = signed_in(&world, by_code(NUMBER, TEST_CODE, device))
        .await
        .user;
    let profile = world.directory.profile(user).await.unwrap().unwrap();
    assert_eq!(profile.nickname, "");

    world.clock.advance_ms(5_000);
    world.accounts.update(user, changes("Ada")).await.unwrap();
    let found = world.accounts.get(user).await.unwrap();
    assert_eq!((found.nickname.as_str(), found.sex), ("Ada", 2));
    assert_eq!(found.updated_at, found.created_at + 5_000);
    let asked = [user, UserId(99), user];
    let profiles = world.directory.profiles(&asked).await.unwrap();
    assert_eq!(profiles.len(), 1);
    assert_eq!(profiles[&user].nickname, "Ada");

    for (field, bad) in [
        ("nickname", changes(&"x".repeat(129))),
        (
            "sex",
            Changes {
                sex: 3,
                ..changes("")
            },
        ),
        (
            "sex",
            Changes {
                sex: -1,
                ..changes("")
            },
        ),
        (
            "avatar_url",
            Changes {
                avatar_url: "x".repeat(1_025),
                ..changes("")
            },
        ),
        (
            "extra",
            Changes {
                extra: "x".repeat(2_049),
                ..changes("")
            },
        ),
        (
            "extra",
            Changes {
                extra: "\0".into(),
                ..changes("")
            },
        ),
    ] {
        names_field(world.accounts.update(user, bad).await, field);
    }
    let nobody = world.accounts.get(UserId(99)).await.map_err(|e| e.code());
    assert_eq!(nobody.unwrap_err(), Some(Code::NoSuchUser));
    for no_id in [UserId(-1), UserId(0)] {
        names_field(world.accounts.get(no_id).await, "user_id");
    }
}

#[tokio::test]
async fn user_who_comes_later_is_found_though_he_was_looked_for_before() {
    let world = World::new().await;
    let device = world.device().await;
    assert_eq!(world.directory.profile(UserId(1)).await.unwrap(), None);
    let user = signed_in(&world, by_code(NUMBER, TEST_CODE, device))
        .await
        .user;
    assert_eq!(user, UserId(1));
    assert!(world.directory.profile(user).await.unwrap().is_some());
}

#[tokio::test]
async fn search_finds_the_whole_number_or_the_start_of_a_name() {
    let world = World::new().await;
    let device = world.device().await;
    for (number, nickname) in [
        ("1000001", "Ada"),
        ("1000002", "Adam"),
        ("1000003", "A%"),
        ("1000004", "1000001 is not mine"),
        ("1000005", "Ae"),
    ] {
        let user = signed_in(&world, by_code(number, TEST_CODE, device))
            .await
            .user;
        world
            .accounts
            .update(user, changes(nickname))
            .await
            .unwrap();
    }
    let found = async |key: &str| -> Result<Vec<String>, Error> {
        let users = world.accounts.search(key).await?;
        Ok(users.into_iter().map(|user| user.nickname).collect())
    };
    assert_eq!(found("Ad").await.unwrap(), ["Ada", "Adam"]);
    assert_eq!(found("A%").await.unwrap(), ["A%"]);
    assert_eq!(found("_da").await.unwrap(), Vec::<String>::new());
    assert_eq!(found("%").await.unwrap(), Vec::<String>::new());
    assert_eq!(
        found("1000001").await.unwrap(),
        ["Ada", "1000001 is not mine"]
    );
    assert_eq!(found("100000").await.unwrap(), ["1000001 is not mine"]);
    names_field(found("").await, "key");
}

#[tokio::test]
async fn business_signs_a_user_out_on_one_device_or_on_all() {
    let world = World::new().await;
    let (device, other) = (world.device().await, world.device().await);
    let here = signed_in(&world, by_code(NUMBER, TEST_CODE, device)).await;
    let there = signed_in(&world, by_code(NUMBER, TEST_CODE, other)).await;
    let user = here.user;
    let auth = &world.authenticator;
    names_field(auth.sign_out(UserId(0), device).await, "user_id");
    names_field(auth.sign_out(user, DeviceId(-1)).await, "device_id");
    let code = async |user, device| {
        let signed_out = auth.sign_out(user, device).await;
        signed_out.err().and_then(|error| error.code())
    };
    assert_eq!(code(UserId(99), DeviceId(0)).await, Some(Code::NoSuchUser));
    assert_eq!(code(user, DeviceId(99)).await, Some(Code::NoSuchDevice));
    assert_eq!(code(user, device).await, None);
    assert!(auth.authorize(user, device, &here.token).await.is_err());
    auth.authorize(user, other, &there.token).await.unwrap();
    assert_eq!(code(user, DeviceId(0)).await, None);
    assert!(auth.authorize(user, other, &there.token).await.is_err());
}

#[test]
fn phone_number_is_digits_with_an_optional_plus() {
    for good in ["12345", "+12345", "8613800000000", "+123456789012345"] {
        check_phone_number(good).unwrap();
    }
    for bad in [
        "",
        "+",
        "1234",
        "+1234",
        "1234567890123456",
        "++12345",
        "12 345",
        "１２３４５",
    ] {
        assert!(check_phone_number(bad).is_err(), "{bad}");
    }
}
