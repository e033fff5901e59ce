//! Who may call what. Every rpc of the external listener stands in one of two lists: open to all,
//! or for signed-in callers only. On the internal listener one token opens everything.
//!
//! Invariant: an rpc in neither list is not served.

use std::{fmt, sync::Arc};

use http::{HeaderMap, Request, header::AUTHORIZATION};
use subtle::ConstantTimeEq;

use crate::{
    auth::{Authenticator, Claim, Credential},
    error::{Error, Result},
    id::{DeviceId, UserId},
    telemetry::trace_context,
};

/// The rpcs of the external listener that need no token.
const OPEN: &[&str] = &[
    "/pb.LogicExt/RegisterDevice",
    "/pb.UserExt/SendCode",
    "/pb.UserExt/SignIn",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// The rpcs of the external listener that need a token; the one called most comes first.
const SIGNED_IN: &[&str] = &[
    "/pb.LogicExt/SendMessage",
    "/pb.LogicExt/AddFriend",
    "/pb.LogicExt/AgreeAddFriend",
    "/pb.LogicExt/SetFriend",
    "/pb.LogicExt/GetFriends",
    "/pb.LogicExt/CreateGroup",
    "/pb.LogicExt/UpdateGroup",
    "/pb.LogicExt/GetGroup",
    "/pb.LogicExt/GetGroups",
    "/pb.LogicExt/AddGroupMembers",
    "/pb.LogicExt/UpdateGroupMember",
    "/pb.LogicExt/DeleteGroupMember",
    "/pb.LogicExt/GetGroupMembers",
    "/pb.UserExt/SignOut",
    "/pb.UserExt/SetPassword",
    "/pb.UserExt/GetUser",
    "/pb.UserExt/UpdateUser",
    "/pb.UserExt/SearchUser",
];

/// What the health service's rpcs begin with.
const HEALTH: &str = "/grpc.health.v1.Health/";

/// The signed-in device that makes a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Who calls.
    pub user: UserId,
    /// On which device; 0 where that is another user's.
    pub device: DeviceId,
}

impl Caller {
    /// The caller of a request.
    ///
    /// # Errors
    /// [`Code::SignInAgain`](crate::error::Code::SignInAgain) when the rpc is not for signed-in
    /// callers.
    pub(super) fn of<T>(request: &tonic::Request<T>) -> Result<Self> {
        let caller = request.extensions().get::<Self>();
        caller.copied().ok_or_else(Error::sign_in_again)
    }
}

/// What decides whether a request may pass.
#[derive(Clone)]
pub(super) enum Guard {
    /// The external listener: devices show user, device and token.
    Callers(Arc<Authenticator>),
    /// The internal listener: a business server shows the configured token, if there is one.
    Business(Option<Arc<str>>),
}

/// What the guard says to a request.
pub(super) enum Verdict {
    /// It passes.
    Pass,
    /// It passes, as this caller's.
    PassAs(Caller),
    /// The credential must be looked up in the database.
    LookUp(Arc<Authenticator>, Claim),
    /// It shows no credential, or a wrong one.
    Refuse,
    /// Nothing answers it.
    NoSuchRpc,
}

impl Guard {
    /// The guard of the internal listener; an empty token asks for nothing.
    pub(super) fn business(token: &str) -> Self {
        Self::Business((!token.is_empty()).then(|| token.into()))
    }

    /// Whose calls these are.
    pub(super) const fn caller(&self) -> trace_context::Caller {
        match self {
            Self::Callers(_) => trace_context::Caller::Device,
            Self::Business(_) => trace_context::Caller::Business,
        }
    }

    /// Whether those who pass may read the traces of internal errors.
    pub(super) const fn shows_traces(&self) -> bool {
        matches!(self, Self::Business(_))
    }

    pub(super) fn check<B>(&self, request: &Request<B>) -> Verdict {
        let path = request.uri().path();
        match self {
            Self::Callers(authenticator) if SIGNED_IN.contains(&path) => {
                match claim(request.headers(), authenticator) {
                    None => Verdict::Refuse,
                    Some(claim) => match authenticator.cached(&claim) {
                        Some(credential) => Verdict::PassAs(Caller::new(&claim, &credential)),
                        None => Verdict::LookUp(Arc::clone(authenticator), claim),
                    },
                }
            }
            Self::Callers(_) if OPEN.contains(&path) => Verdict::Pass,
            Self::Callers(_) => Verdict::NoSuchRpc,
            Self::Business(None) => Verdict::Pass,
            Self::Business(Some(_)) if path.starts_with(HEALTH) => Verdict::Pass,
            Self::Business(Some(token)) if bears(request.headers(), token) => Verdict::Pass,
            Self::Business(Some(_)) => Verdict::Refuse,
        }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the token.
        f.write_str(match self {
            Self::Callers(_) => "Callers",
            Self::Business(_) => "Business",
        })
    }
}

impl Caller {
    /// Who has proved `claim` by `credential`.
    pub(super) fn new(claim: &Claim, credential: &Credential) -> Self {
        Self {
            user: claim.user,
            device: if credential.is_of_another {
                DeviceId(0)
            } else {
                claim.device
            },
        }
    }
}

/// What the metadata `user_id`, `device_id` and `token` claim; `None` when one of them is missing
/// or cannot be right.
fn claim(metadata: &HeaderMap, authenticator: &Authenticator) -> Option<Claim> {
    let (user, device) = (id(metadata, "user_id")?, id(metadata, "device_id")?);
    authenticator.claim(UserId(user), DeviceId(device), token(metadata)?)
}

/// The token in the metadata.
pub(super) fn token(metadata: &HeaderMap) -> Option<&str> {
    metadata.get("token")?.to_str().ok()
}

fn id(metadata: &HeaderMap, name: &str) -> Option<i64> {
    let id = metadata.get(name)?.to_str().ok()?.parse().ok()?;
    (id > 0).then_some(id)
}

/// Whether the metadata bears `authorization: Bearer <token>`.
fn bears(metadata: &HeaderMap, token: &str) -> bool {
    const SCHEME: &[u8] = b"Bearer ";
    metadata
        .get(AUTHORIZATION)
        .and_then(|value| value.as_bytes().split_at_checked(SCHEME.len()))
        .is_some_and(|(scheme, shown)| {
            scheme.eq_ignore_ascii_case(SCHEME) && bool::from(shown.ct_eq(token.as_bytes()))
        })
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use tonic_reflection::pb::{v1, v1alpha};

    use super::{HeaderMap, OPEN, SIGNED_IN, bears, claim};
    use crate::{auth::token, pb, testing::World};

    /// The paths of every rpc that a listener can serve from these descriptors.
    fn rpcs(descriptors: &[u8]) -> Vec<String> {
        let set = prost_types::FileDescriptorSet::decode(descriptors).unwrap();
        let mut paths = Vec::new();
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    let (package, service) = (file.package(), service.name());
                    paths.push(format!("/{package}.{service}/{}", method.name()));
                }
            }
        }
        paths
    }

    #[test]
    fn every_rpc_is_in_exactly_one_list() {
        let served: Vec<String> = [
            pb::EXTERNAL_DESCRIPTORS,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            v1::FILE_DESCRIPTOR_SET,
            v1alpha::FILE_DESCRIPTOR_SET,
        ]
        .into_iter()
        .flat_map(rpcs)
        .collect();
        for path in &served {
            let lists = [OPEN, SIGNED_IN].map(|list| list.iter().filter(|p| *p == path).count());
            assert_eq!(
                lists.iter().sum::<usize>(),
                1,
                "{path} is in {lists:?} lists"
            );
        }
        for path in OPEN.iter().chain(SIGNED_IN) {
            assert!(served.iter().any(|p| p == path), "{path} is no rpc");
        }
    }

    fn metadata(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.insert(*name, value.parse().unwrap());
        }
        map
    }

    #[tokio::test]
    async fn claim_needs_positive_ids_and_a_token() {
        let world = World::new().await;
        let claim = |pairs: &[(&'static str, &str)]| claim(&metadata(pairs), &world.authenticator);
        let (token, hash) = token::generate();
        let claimed = |user: &str, device: &str, token: &str| {
            claim(&[("user_id", user), ("device_id", device), ("token", token)])
        };
        let good = claimed("1", "2", &token).unwrap();
        assert_eq!((good.user.0, good.device.0, good.token_hash), (1, 2, hash));
        for (user, device, token) in [
            ("0", "2", &*token),
            ("-1", "2", &token),
            ("1", "0", &token),
            ("1", "x", &token),
            ("1", "9223372036854775808", &token),
            ("1", "2", ""),
            ("1", "2", "abc"),
        ] {
            assert!(claimed(user, device, token).is_none());
        }
        assert!(claim(&[("user_id", "1"), ("device_id", "2")]).is_none());
    }

    #[test]
    fn only_the_whole_token_is_borne() {
        let shows = |value| bears(&metadata(&[("authorization", value)]), "secret");
        assert!(shows("Bearer secret") && shows("bearer secret"));
        for wrong in [
            "secret",
            "Bearer",
            "Bearer ",
            "Bearer secre",
            "Bearer secret2",
            "Basic secret",
        ] {
            assert!(!shows(wrong), "{wrong}");
        }
        assert!(!bears(&HeaderMap::new(), "secret"));
    }
}
