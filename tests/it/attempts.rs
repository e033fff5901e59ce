//! Wrong codes and passwords are counted, per number and per address; and what is not counted.

use std::sync::Arc;

use im::{
    clock::{Clock, Manual, System},
    pb::{SendCodeReq, SetPasswordReq, SignInReq},
};

use crate::support::{
    Api, Server,
    api::random_phone_number,
    errors::{TOO_MANY_REQUESTS, WRONG_CODE, assert_fails, code},
};

/// Tries a wrong code, and returns the error's number.
async fn try_wrong(server: &Api, phone_number: &str, device_id: i64) -> i32 {
    let request = SignInReq {
        phone_number: phone_number.into(),
        code: "000000".into(),
        device_id,
        password: String::new(),
    };
    let refused = server.anyones_users().sign_in(request).await;
    code(&refused.expect_err("a wrong code"))
}

#[tokio::test]
async fn five_wrong_codes_close_a_number_for_the_right_one_too() {
    let server = Server::start().await;
    let known = server.new_user().await.phone_number;
    let stranger = random_phone_number();
    let device = server.register_device().await;
    for phone_number in [known, stranger] {
        for attempt in 1..=5 {
            let refused = try_wrong(&server, &phone_number, device).await;
            assert_eq!(refused, WRONG_CODE, "attempt {attempt}");
        }
        assert_eq!(
            try_wrong(&server, &phone_number, device).await,
            TOO_MANY_REQUESTS
        );
        let right = server.try_sign_in(&phone_number, device).await;
        assert_fails(right, TOO_MANY_REQUESTS);
    }
    server.new_user().await; // another number from the same address
}

#[tokio::test]
async fn ten_minutes_later_the_number_is_open_again() {
    let clock = Arc::new(Manual::at(System.now_ms()));
    let server = Server::with_clock(clock.clone(), |_| {}).await;
    let alice = server.new_user().await;
    let device = server.register_device().await;
    while try_wrong(&server, &alice.phone_number, device).await != TOO_MANY_REQUESTS {}
    clock.advance_ms(9 * 60 * 1000);
    let early = server.try_sign_in(&alice.phone_number, device).await;
    assert_fails(early, TOO_MANY_REQUESTS);
    clock.advance_ms(2 * 60 * 1000);
    server.sign_in(&alice.phone_number, device).await;
}

#[tokio::test]
async fn a_hundred_wrong_codes_close_an_address() {
    let server = Server::start().await;
    let device = server.register_device().await;
    for _ in 0..25 {
        let phone_number = random_phone_number();
        for _ in 0..4 {
            let refused = try_wrong(&server, &phone_number, device).await;
            assert_eq!(refused, WRONG_CODE);
        }
    }
    let fresh = random_phone_number();
    assert_eq!(try_wrong(&server, &fresh, device).await, TOO_MANY_REQUESTS);
    let right = server.try_sign_in(&fresh, device).await;
    assert_fails(right, TOO_MANY_REQUESTS);
}

/// An attacker who guesses does not lock the owner out.
#[tokio::test]
async fn the_owner_signs_in_by_password_from_a_known_device_all_the_same() {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let password = String::from("correct horse");
    let request = SetPasswordReq {
        password: password.clone(),
    };
    let mut users = server.users(&alice);
    users.set_password(request).await.expect("SetPassword");
    let attacker = server.register_device().await;
    while try_wrong(&server, &alice.phone_number, attacker).await != TOO_MANY_REQUESTS {}
    let by_password = |device_id| SignInReq {
        phone_number: alice.phone_number.clone(),
        device_id,
        password: password.clone(),
        code: String::new(),
    };
    let mut anyone = server.anyones_users();
    let elsewhere = anyone.sign_in(by_password(attacker)).await;
    assert_fails(elsewhere, TOO_MANY_REQUESTS);
    let at_home = anyone.sign_in(by_password(alice.device_id)).await;
    assert_eq!(
        at_home.expect("a known device").into_inner().user_id,
        alice.user_id
    );
}

/// What is right is not counted: more sign-ins and token checks than any limit on wrong ones.
#[tokio::test]
async fn good_sign_ins_and_registrations_are_not_limited() {
    let server = Server::start().await;
    let alice = server.new_user().await;
    for _ in 0..120 {
        server.register_device().await;
        server.sign_in(&alice.phone_number, alice.device_id).await;
    }
}

#[tokio::test]
async fn a_number_is_sent_one_code_a_minute() {
    let clock = Arc::new(Manual::at(System.now_ms()));
    let server = Server::with_clock(clock.clone(), |_| {}).await;
    let request = SendCodeReq {
        phone_number: random_phone_number(),
    };
    let mut users = server.anyones_users();
    users.send_code(request.clone()).await.expect("the first");
    assert_fails(users.send_code(request.clone()).await, TOO_MANY_REQUESTS);
    let other = SendCodeReq {
        phone_number: random_phone_number(),
    };
    users.send_code(other).await.expect("another number");
    clock.advance_ms(61_000);
    users.send_code(request).await.expect("a minute later");
}
