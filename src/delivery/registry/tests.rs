//! Whose session wins and who is online, whatever the order in which sessions come and go.

use proptest::{collection::vec, prelude::*, sample::Index};

use super::*;

const DEVICE: DeviceId = DeviceId(1);
const USER: UserId = UserId(10);

fn session(registry: &Registry) -> Arc<Handle> {
    let handle = Arc::new(Handle::new(DEVICE));
    registry.enter(&handle);
    handle
}

fn credential(user: UserId, generation: i64) -> Credential {
    Credential {
        user,
        generation,
        token_hash: [0; 32],
        expires_at: 0,
    }
}

fn is_listed(registry: &Registry, handle: &Arc<Handle>) -> bool {
    registry.all().iter().any(|h| Arc::ptr_eq(h, handle))
}

proptest! {
    /// I7: whatever the order in which the sessions of a device sign in and die.
    #[test]
    fn newest_generation_wins_and_the_dying_remove_nobody_else(
        generations in (2..6_i64).prop_flat_map(|n| Just((1..=n).collect::<Vec<_>>()).prop_shuffle()),
        deaths in vec(any::<Option<Index>>(), 6),
    ) {
        let registry = Registry::default();
        let mut entered: Vec<_> = generations.iter().map(|_| session(&registry)).collect();
        let mut live: Vec<(i64, Arc<Handle>)> = Vec::new();
        for (generation, death) in generations.into_iter().zip(deaths) {
            let handle = entered.pop().unwrap();
            registry.sign_in(&handle, credential(USER, generation));
            live.push((generation, handle));
            let newest = live.iter().map(|(generation, _)| *generation).max();
            for (generation, handle) in &live {
                let replaced = (Some(*generation) != newest).then_some(Eviction::Replaced);
                prop_assert_eq!(handle.eviction(), replaced, "generation {}", generation);
            }
            prop_assert_eq!(registry.online(DEVICE), Some(USER));
            // One of them dies, then those that were told to go.
            let Some(index) = death else { continue };
            let mut dying = vec![live.remove(index.index(live.len())).1];
            let is_replaced = |(_, handle): &mut (i64, Arc<Handle>)| handle.eviction().is_some();
            dying.extend(live.extract_if(.., is_replaced).map(|(_, handle)| handle));
            let online = !live.is_empty();
            for dead in dying {
                registry.leave(&dead);
                prop_assert!(!is_listed(&registry, &dead));
                prop_assert_eq!(registry.online(DEVICE), online.then_some(USER));
            }
            let signed_in = live.iter().map(|(_, handle)| handle);
            for handle in signed_in.chain(&entered) {
                prop_assert!(is_listed(&registry, handle));
                prop_assert_eq!(handle.eviction(), None);
            }
        }
    }
}

#[test]
fn session_on_its_way_in_is_not_online_but_can_be_evicted() {
    let registry = Registry::default();
    let (signed_in, on_its_way) = (session(&registry), session(&registry));
    let elsewhere = Arc::new(Handle::new(DeviceId(2)));
    registry.enter(&elsewhere);
    assert_eq!(registry.online(DEVICE), None);
    registry.sign_in(&signed_in, credential(USER, 1));
    assert_eq!(registry.online(DEVICE), Some(USER));

    registry.evict_device(DEVICE, Eviction::SignedOut);
    assert_eq!(signed_in.eviction(), Some(Eviction::SignedOut));
    assert_eq!(on_its_way.eviction(), Some(Eviction::SignedOut));
    assert_eq!(elsewhere.eviction(), None);
    assert_eq!(registry.online(DEVICE), None);
    registry.sign_in(&on_its_way, credential(USER, 2));
    assert_eq!(registry.online(DEVICE), None, "it was told to go before");
}

#[test]
fn device_that_changed_its_user_is_online_as_the_new_one() {
    let registry = Registry::default();
    let (former, new) = (session(&registry), session(&registry));
    registry.sign_in(&former, credential(USER, 1));
    registry.sign_in(&new, credential(UserId(11), 2));
    assert_eq!(registry.online(DEVICE), Some(UserId(11)));
    assert_eq!(former.eviction(), Some(Eviction::Replaced));
}

#[test]
fn room_of_a_device_is_that_of_its_live_session() {
    let registry = Registry::default();
    let former = session(&registry);
    assert_eq!(registry.room(DEVICE), None);
    registry.sign_in(&former, credential(USER, 1));
    assert_eq!(registry.room(DEVICE), None);
    former.enter_room(Some(RoomId(7)));
    assert_eq!(registry.room(DEVICE), Some(RoomId(7)));
    let new = session(&registry);
    new.enter_room(Some(RoomId(8)));
    assert_eq!(registry.room(DEVICE), Some(RoomId(7)), "not signed in yet");
    registry.sign_in(&new, credential(USER, 2));
    assert_eq!(registry.room(DEVICE), Some(RoomId(8)));
    new.enter_room(None);
    assert_eq!(registry.room(DEVICE), None);
    registry.leave(&new);
    assert_eq!(registry.room(DEVICE), None, "the former was told to go");
    let (user, room) = (USER, RoomId(7));
    assert!(registry.is_in_room(user, DEVICE, room), "it may have sent");
    assert!(!registry.is_in_room(UserId(11), DEVICE, room));
    assert!(!registry.is_in_room(user, DEVICE, RoomId(8)));
    registry.leave(&former);
    assert!(!registry.is_in_room(user, DEVICE, room));
}

#[test]
fn changes_that_nobody_takes_are_bounded() {
    let registry = Registry::watched();
    registry.sign_in(&session(&registry), credential(USER, 1));
    for device in 0..3 * PRESENCE_CHANGES_MAX as i64 {
        registry.touch(&[DeviceId(device)]);
        let state = registry.lock();
        assert!(state.changes.as_ref().map(HashMap::len) <= Some(1 + PRESENCE_CHANGES_MAX));
    }
    let (_, version) = registry.take_changes(usize::MAX);
    assert_eq!(version, None, "not all");
    assert!(registry.take_overflow() && !registry.take_overflow());
    let (changes, version) = registry.take_changes(usize::MAX);
    assert_eq!(version, Some(registry.version()));
    let [change] = &*changes else {
        panic!("{changes:?}");
    };
    assert_eq!(change.device, DEVICE);
    assert_eq!(change.now.map(|now| now.user), Some(USER));
}

#[test]
fn first_reason_of_an_eviction_stays() {
    let registry = Registry::default();
    let handle = session(&registry);
    registry.evict_device(DEVICE, Eviction::Replaced);
    registry.evict_all(Eviction::Draining);
    assert_eq!(handle.eviction(), Some(Eviction::Replaced));
}

#[test]
fn nothing_is_left_of_devices_whose_sessions_have_gone() {
    let registry = Registry::default();
    let (one, other) = (session(&registry), session(&registry));
    registry.leave(&one);
    assert_eq!((registry.len(), registry.is_empty()), (1, false));
    registry.leave(&one);
    registry.leave(&other);
    assert_eq!((registry.len(), registry.is_empty()), (0, true));
}
