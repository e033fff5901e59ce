//! Signing in with tokens that the business vouched for, against a real database.

use std::sync::Arc;

use super::{Authenticator, Claim, Credential, Issuer, Options, SignIns, jwt::Verifier};
use crate::{
    config::{self, Config},
    delivery::handle::{self, Eviction, Handle},
    error::{Code, Error},
    id::{DeviceId, UserId},
    lifecycle::Tasks,
    limits::CACHE_TTL,
    store,
    telemetry::Metrics,
    testing::{START_MS, World, sign_in_config},
};

const USER: UserId = UserId(7);

/// A server whose tokens are the business's.
struct Site {
    world: World,
    authenticator: Arc<Authenticator>,
    sign_ins: SignIns,
    _tasks: Tasks,
}

impl Site {
    async fn new() -> Self {
        let world = World::new().await;
        let tasks = Tasks::default();
        let mut jwt = Config::default().jwt;
        jwt.secret = "secret".into();
        let options = Options {
            issuer: Issuer::Signed(Verifier::open(&jwt, &tasks).await.unwrap()),
            store: world.store.clone(),
            registry: Arc::clone(&world.registry),
            router: Arc::clone(&world.sending.router),
            clock: Arc::clone(&world.clock) as _,
            tasks: tasks.clone(),
            doubts: Arc::default(),
            cache_ttl: CACHE_TTL,
        };
        let devices = config::Devices { per_user_max: 2 };
        let authenticator = Authenticator::new(options, &sign_in_config(), &devices);
        let clock = Arc::clone(&world.clock) as _;
        let metrics = Arc::new(Metrics::default());
        Self {
            authenticator: Arc::new(authenticator),
            sign_ins: SignIns::start(world.store.clone(), clock, metrics, None, &tasks),
            world,
            _tasks: tasks,
        }
    }

    /// Signs in with a token that was vouched for when there had been so many sign-outs.
    async fn sign_in(
        &self,
        user: UserId,
        device: DeviceId,
        token: u8,
        sign_outs: i64,
    ) -> Result<super::sign_in::SignedIn, Error> {
        let token_hash = [token; 32];
        let claim = Claim {
            user,
            device,
            token_hash,
        };
        let vouched = Credential {
            user,
            token_hash,
            expires_at: i64::MAX,
            sign_outs,
            is_of_another: false,
        };
        self.sign_ins.sign_in(claim, Some(vouched)).await
    }

    /// Whose the device is, and the token that is stored for it.
    async fn stored(&self, device: DeviceId) -> (i64, Option<(i64, u8)>) {
        let conn = self.world.store.reader();
        let row = store::device::by_id(conn, device).await.unwrap().unwrap();
        let token = store::auth_token::by_device(conn, device).await.unwrap();
        let token = token.map(|token| (token.user_id, token.token_hash[0]));
        (row.user_id, token)
    }
}

#[tokio::test]
async fn device_is_its_users_and_goes_by_the_token_it_signed_in_with() {
    let site = Site::new().await;
    let device = site.world.device().await;
    let first = site.sign_in(USER, device, 1, 0).await.unwrap();
    assert!(first.is_new_device);
    assert_eq!(site.stored(device).await, (7, Some((7, 1))));
    let second = site.sign_in(USER, device, 2, 0).await.unwrap();
    assert!(!second.is_new_device && second.generation > first.generation);
    assert_eq!(site.stored(device).await, (7, Some((7, 2))));
    let other = site.sign_in(UserId(8), device, 3, 0).await.unwrap();
    assert!(other.is_new_device);
    assert_eq!(site.stored(device).await, (8, Some((8, 3))));
}

#[tokio::test]
async fn device_that_nobody_registered_signs_nobody_in() {
    let site = Site::new().await;
    let refused = site.sign_in(USER, DeviceId(99), 1, 0).await.unwrap_err();
    assert!(refused.is(Code::SignInAgain));
    let conn = site.world.store.reader();
    let stored = store::auth_token::by_device(conn, DeviceId(99)).await;
    assert_eq!(stored.unwrap(), None);
}

/// I8: the business said yes, then it signed the user out, and then the device's turn came.
#[tokio::test]
async fn sign_out_counts_against_what_was_vouched_for_before_it() {
    let site = Site::new().await;
    let (device, other) = (site.world.device().await, site.world.device().await);
    let auth = &site.authenticator;
    let before = site.sign_in(USER, device, 1, 0).await.unwrap();
    auth.sign_out(USER, device).await.unwrap();
    assert_eq!(site.stored(device).await, (7, None));
    let refused = site.sign_in(USER, device, 1, 0).await.unwrap_err();
    assert!(refused.is(Code::SignInAgain));
    site.sign_in(USER, other, 2, 0).await.unwrap();
    let after = site.sign_in(USER, device, 3, 1).await.unwrap();
    assert_eq!(
        after.generation,
        before.generation + 1,
        "who is refused replaces nobody"
    );

    auth.sign_out(USER, DeviceId(0)).await.unwrap();
    assert_eq!(site.stored(device).await, (7, None));
    assert_eq!(site.stored(other).await, (7, None));
    assert!(site.sign_in(USER, device, 3, 1).await.is_err());
    assert!(site.sign_in(USER, other, 2, 0).await.is_err());
    // Once alone, once with all, and once for all.
    site.sign_in(USER, device, 4, 3).await.unwrap();
    site.sign_in(UserId(8), other, 5, 0).await.unwrap();
}

/// A call that was repeated finds nothing to end, and what the first has ended stays so.
#[tokio::test]
async fn sign_out_that_is_repeated_forgets_no_token() {
    let site = Site::new().await;
    let device = site.world.device().await;
    site.sign_in(USER, device, 1, 0).await.unwrap();
    for _ in 0..2 {
        site.authenticator.sign_out(USER, device).await.unwrap();
    }
    let conn = site.world.store.reader();
    let known = store::sign_out::of(conn, &[(USER, device)]).await.unwrap();
    assert_eq!(known.count(USER, device), 2);
    let ended: Vec<_> = known.of(USER, device).map(|row| &row.token_hash).collect();
    assert_eq!(ended, [&vec![1; 32]]);
}

/// The sweep looked at the session before the device signed in, and judges after it has.
#[tokio::test]
async fn session_that_signs_in_while_the_sweep_asks_stays() {
    let site = Site::new().await;
    let device = site.world.device().await;
    let handle = Arc::new(Handle::new(device));
    site.world.registry.enter(&handle);
    let sessions = [Arc::clone(&handle)];
    let comparison = super::sweep::Comparison::of(&sessions);
    let credential = handle::Credential {
        user: USER,
        generation: 1,
        token_hash: [1; 32],
        expires_at: i64::MAX,
    };
    site.world.registry.sign_in(&handle, credential);
    let changing = comparison.against(&site.world.store, START_MS).await;
    assert_eq!(changing.unwrap(), [device], "it is looked at again");
    assert_eq!(handle.eviction(), None);
}

#[tokio::test]
async fn one_device_too_many_signs_out_the_one_longest_unused() {
    let site = Site::new().await;
    let mut handles = Vec::new();
    for token in 1..=3 {
        site.world.clock.advance_ms(1_000);
        let device = site.world.device().await;
        let handle = Arc::new(Handle::new(device));
        site.world.registry.enter(&handle);
        handles.push(handle);
        site.sign_in(USER, device, token, 0).await.unwrap();
        let kept = site.authenticator.keep_to_the_bound(USER, device);
        kept.await.unwrap();
    }
    let ended: Vec<_> = handles.iter().map(|handle| handle.eviction()).collect();
    assert_eq!(ended, [Some(Eviction::SignedOut), None, None]);
}
