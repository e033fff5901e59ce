//! Accounts: signing in with codes and passwords, and the profile.

use im::pb::{SearchUserReq, SetPasswordReq, SignInReq, UpdateUserReq, User};
use tonic::Status;

use crate::support::{
    Api, Device, Server,
    api::{TEST_CODE, random_phone_number},
    errors::{BAD_REQUEST, NO_SUCH_DEVICE, NO_SUCH_USER, WRONG_CODE, assert_fails, assert_names},
};

const PASSWORD: &str = "correct horse battery";

async fn set_password(server: &Api, device: &Device, password: &str) -> Result<(), Status> {
    let request = SetPasswordReq {
        password: password.into(),
    };
    let answer = server.users(device).set_password(request).await;
    answer.map(|_| ())
}

async fn sign_in_with_password(
    server: &Api,
    phone_number: &str,
    device_id: i64,
    password: &str,
) -> Result<im::pb::SignInResp, Status> {
    let request = SignInReq {
        phone_number: phone_number.into(),
        device_id,
        password: password.into(),
        code: String::new(),
    };
    let answer = server.anyones_users().sign_in(request).await?;
    Ok(answer.into_inner())
}

#[tokio::test]
async fn the_first_sign_in_creates_the_account_and_the_next_does_not() {
    let server = Server::start().await;
    let phone_number = random_phone_number();
    let device = server.register_device().await;
    let first = server
        .try_sign_in(&phone_number, device)
        .await
        .expect("new");
    let again = server
        .try_sign_in(&phone_number, device)
        .await
        .expect("known");
    let other_device = server.register_device().await;
    let other = server
        .try_sign_in(&phone_number, other_device)
        .await
        .expect("known");
    assert_eq!(
        (first.is_new, again.is_new, other.is_new),
        (true, false, false)
    );
    assert!(first.user_id == again.user_id && first.user_id == other.user_id);
    assert!(first.token != again.token && again.token != other.token);
    let stranger = server.new_user().await;
    assert_ne!(stranger.user_id, first.user_id);
}

/// Of many first sign-ins at once one creates the account.
#[tokio::test]
async fn concurrent_first_sign_ins_create_one_account() {
    let server = Server::start().await;
    let phone_number = random_phone_number();
    let mut attempts = Vec::new();
    for _ in 0..8 {
        let device = server.register_device().await;
        let (api, phone_number) = (server.clone_api(), phone_number.clone());
        attempts.push(tokio::spawn(async move {
            api.try_sign_in(&phone_number, device)
                .await
                .expect("SignIn")
        }));
    }
    let mut answers = Vec::new();
    for attempt in attempts {
        answers.push(attempt.await.expect("no panic"));
    }
    assert_eq!(answers.iter().filter(|a| a.is_new).count(), 1);
    assert!(answers.iter().all(|a| a.user_id == answers[0].user_id));
}

#[tokio::test]
async fn a_device_must_be_registered() {
    let server = Server::start().await;
    let phone_number = random_phone_number();
    assert_fails(
        server.try_sign_in(&phone_number, i64::MAX).await,
        NO_SUCH_DEVICE,
    );
    assert_names(server.try_sign_in(&phone_number, -1).await, "device_id");
}

#[tokio::test]
async fn phone_numbers_are_checked() {
    let server = Server::start().await;
    let device = server.register_device().await;
    for wrong in [
        "",
        "alice",
        "+",
        "+12345678901234567890",
        "+1 555'; --",
        "\0",
    ] {
        assert_names(server.try_sign_in(wrong, device).await, "phone_number");
        let request = im::pb::SendCodeReq {
            phone_number: wrong.into(),
        };
        assert_names(
            server.anyones_users().send_code(request).await,
            "phone_number",
        );
    }
}

#[tokio::test]
async fn a_password_signs_in_once_it_is_set() {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let phone = &alice.phone_number;
    let device = server.register_device().await;
    let before = sign_in_with_password(&server, phone, device, PASSWORD).await;
    assert_fails(before, WRONG_CODE);
    set_password(&server, &alice, PASSWORD)
        .await
        .expect("SetPassword");
    let answer = sign_in_with_password(&server, phone, device, PASSWORD).await;
    let answer = answer.expect("the right password");
    assert_eq!((answer.user_id, answer.is_new), (alice.user_id, false));
    let wrong = sign_in_with_password(&server, phone, device, "incorrect horse").await;
    assert_fails(wrong, WRONG_CODE);
    // The newest counts.
    set_password(&server, &alice, "another password")
        .await
        .expect("SetPassword");
    let old = sign_in_with_password(&server, phone, device, PASSWORD).await;
    assert_fails(old, WRONG_CODE);
}

#[tokio::test]
async fn passwords_have_8_to_128_characters() {
    let server = Server::start().await;
    let alice = server.new_user().await;
    for wrong in ["", "1234567", &"x".repeat(129), &"ä".repeat(129)] {
        assert_names(set_password(&server, &alice, wrong).await, "password");
    }
    for right in ["12345678", &"x".repeat(128), &"ä".repeat(128)] {
        set_password(&server, &alice, right)
            .await
            .expect("long enough");
    }
}

/// Neither the code nor the sentence tells whether a number has an account.
#[tokio::test]
async fn a_wrong_credential_does_not_tell_whether_the_account_exists() {
    let server = Server::start().await;
    let alice = server.new_user().await;
    set_password(&server, &alice, PASSWORD)
        .await
        .expect("SetPassword");
    let without_password = server.new_user().await;
    let device = server.register_device().await;
    let stranger = random_phone_number();
    let mut sentences = Vec::new();
    for phone in [
        &alice.phone_number,
        &without_password.phone_number,
        &stranger,
    ] {
        let password = sign_in_with_password(&server, phone, device, "wrong password").await;
        let by_password = assert_fails(password, WRONG_CODE);
        let request = SignInReq {
            phone_number: phone.clone(),
            code: "000000".into(),
            device_id: device,
            password: String::new(),
        };
        let code = server.anyones_users().sign_in(request).await;
        let by_code = assert_fails(code, WRONG_CODE);
        let request = im::pb::SendCodeReq {
            phone_number: phone.clone(),
        };
        let sent = server.anyones_users().send_code(request).await;
        sentences.push((by_password, by_code, sent.expect("SendCode").into_inner()));
    }
    assert!(
        sentences.iter().all(|s| *s == sentences[0]),
        "{sentences:?}"
    );
}

#[tokio::test]
async fn a_profile_is_replaced_as_a_whole() {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let full = UpdateUserReq {
        nickname: "Alice".into(),
        sex: 2,
        avatar_url: "https://example.com/a.png".into(),
        extra: "{}".into(),
    };
    let empty = UpdateUserReq::default();
    for profile in [full, empty] {
        let mut users = server.users(&alice);
        users
            .update_user(profile.clone())
            .await
            .expect("UpdateUser");
        let by_herself = server.get_user(&alice, 0).await.expect("the caller");
        let by_bob = server.get_user(&bob, alice.user_id).await.expect("anybody");
        assert_eq!(by_herself, by_bob);
        let User {
            user_id,
            nickname,
            sex,
            avatar_url,
            extra,
            create_time,
            update_time,
        } = by_bob;
        assert_eq!(user_id, alice.user_id);
        assert_eq!(
            UpdateUserReq {
                nickname,
                sex,
                avatar_url,
                extra
            },
            profile
        );
        assert!(
            create_time > 1_600_000_000 && create_time < 10_000_000_000,
            "seconds"
        );
        assert!(update_time >= create_time);
    }
}

#[tokio::test]
async fn a_profile_has_bounds() {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let profile = |nickname: usize, avatar: usize, extra: usize| UpdateUserReq {
        nickname: "n".repeat(nickname),
        sex: 0,
        avatar_url: "a".repeat(avatar),
        extra: "e".repeat(extra),
    };
    let mut users = server.users(&alice);
    users
        .update_user(profile(128, 1024, 2048))
        .await
        .expect("at the bounds");
    assert_names(users.update_user(profile(129, 0, 0)).await, "nickname");
    assert_names(users.update_user(profile(0, 1025, 0)).await, "avatar_url");
    assert_names(users.update_user(profile(0, 0, 2049)).await, "extra");
    let kept = server.get_user(&alice, 0).await.expect("the caller");
    assert_eq!(kept.nickname.len(), 128, "a refused update changes nothing");
}

#[tokio::test]
async fn a_user_that_does_not_exist_is_not_found() {
    let server = Server::start().await;
    let alice = server.new_user().await;
    assert_fails(server.get_user(&alice, i64::MAX).await, NO_SUCH_USER);
    assert_fails(server.get_user(&alice, -1).await, BAD_REQUEST);
}

async fn search(server: &Api, device: &Device, key: &str) -> Result<Vec<i64>, Status> {
    let request = SearchUserReq { key: key.into() };
    let answer = server
        .users(device)
        .search_user(request)
        .await?
        .into_inner();
    let mut ids: Vec<_> = answer.users.iter().map(|u| u.user_id).collect();
    ids.sort_unstable();
    Ok(ids)
}

#[tokio::test]
async fn users_are_found_by_phone_number_or_by_the_start_of_the_nickname() {
    let server = Server::start().await;
    let (alice, alicia) = (server.new_user().await, server.new_user().await);
    let (percent, bob) = (server.new_user().await, server.new_user().await);
    server.set_nickname(&alice, "Alice").await;
    server.set_nickname(&alicia, "Alicia").await;
    server.set_nickname(&percent, "100%_sure").await;
    let mut both = vec![alice.user_id, alicia.user_id];
    both.sort_unstable();
    let cases: [(&str, Vec<i64>); 8] = [
        (&alice.phone_number, vec![alice.user_id]),
        ("Alic", both),
        ("Alice", vec![alice.user_id]),
        ("lice", vec![]),
        ("%", vec![]),
        ("_lice", vec![]),
        ("100%", vec![percent.user_id]),
        (&alice.phone_number[..8], vec![]),
    ];
    for (key, expected) in cases {
        assert_eq!(
            search(&server, &bob, key).await.expect("SearchUser"),
            expected,
            "{key}"
        );
    }
    assert_names(search(&server, &bob, "").await, "key");
}

/// The code is of use for its number only.
#[tokio::test]
async fn a_test_code_that_is_not_set_is_worth_nothing() {
    let server = Server::with(|config| config.sign_in.test_code.clear()).await;
    let device = server.register_device().await;
    for code in [TEST_CODE, ""] {
        let request = SignInReq {
            phone_number: random_phone_number(),
            code: code.into(),
            device_id: device,
            password: String::new(),
        };
        let refused = server.anyones_users().sign_in(request).await;
        let status = refused.expect_err("no test code");
        let code = crate::support::errors::code(&status);
        assert!([WRONG_CODE, BAD_REQUEST].contains(&code), "{status:?}");
    }
}
