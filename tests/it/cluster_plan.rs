//! Seeded random plans: devices connect, send, acknowledge, sync, join and leave while instances are
//! killed, the bridge is cut and the database restarts. When everything is well again every invariant
//! must hold that a client can see (I1 to I7, I10). A failing run prints its seed; `IM_TEST_SEED`
//! replays one.

mod check;
mod device;
mod world;

use rand::{Rng, SeedableRng, rngs::StdRng};

use world::World;

const ROUNDS: usize = 4;
const STEPS: usize = 60;

/// The seed of the test, or the one to replay.
async fn run(seed: u64) {
    let given = std::env::var("IM_TEST_SEED").ok();
    let seed = given.and_then(|seed| seed.parse().ok()).unwrap_or(seed);
    println!("IM_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut world = World::new().await;
    for round in 0..ROUNDS {
        for _ in 0..STEPS {
            step(&mut world, &mut random).await;
        }
        world.heal().await;
        world.settle().await;
        println!("round {round}");
        check::check(&mut world).await;
    }
}

async fn step(world: &mut World, random: &mut StdRng) {
    let device = random.random_range(0..world.devices.len());
    match random.random_range(0..100) {
        0..14 => {
            let instance = random.random_range(0..world::INSTANCES);
            world.connect(device, instance, random.random()).await;
        }
        14..18 => world.disconnect(device),
        18..62 => {
            let target = random.random_range(0..world::USERS + 4);
            world.send(device, target).await;
        }
        62..72 => world.read(device).await,
        72..78 => world.acknowledge(device).await,
        78..82 => world.sync(device).await,
        82..86 => {
            world
                .join(random.random_range(1..world::USERS), random.random())
                .await
        }
        86..90 => {
            world
                .leave(random.random_range(1..world::USERS), random.random())
                .await
        }
        90..93 => world.kill(random.random_range(0..world::INSTANCES)),
        93..95 => world.bring_back().await,
        95..98 => {
            let instance = random.random_range(0..world::INSTANCES);
            world.hurt_bridge(instance, random.random()).await;
        }
        98 => world.mend_bridges().await,
        _ => world.restart_database().await,
    }
}

/// One test for each seed, so that they run side by side and are told apart.
macro_rules! seeds {
    ($($name:ident: $seed:literal),+ $(,)?) => {
        $(#[tokio::test]
        async fn $name() {
            run($seed).await;
        })+
    };
}

seeds!(
    every_invariant_holds_with_seed_1: 1,
    every_invariant_holds_with_seed_2: 2,
    every_invariant_holds_with_seed_3: 3,
    every_invariant_holds_with_seed_1973: 1_973,
);
