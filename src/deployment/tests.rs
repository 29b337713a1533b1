//! Deployments by value, and in a small world in which everything goes wrong.

use proptest::prelude::*;

use super::*;

const OLD: u32 = 4;
const NEW: u32 = 5;

fn policy() -> Policy {
    Policy {
        min_ready: Duration::from_secs(3),
        parallel: 1,
        max_failures: 0,
        rollback: true,
        probation: Duration::from_secs(60),
    }
}

fn at(ms: u64) -> Time {
    Time(ms)
}

fn deployment(old: u32, new: u32, policy: Policy) -> Deployment {
    Deployment::new(Release { revision: OLD, instances: old }, Release { revision: NEW, instances: new }, policy)
}

/// The instances of an app and what becomes of them; does what a deployment says as the supervisor does.
#[derive(Debug, Clone)]
struct World {
    deployment: Deployment,
    view: View,
    next: u32,
    now: Time,
    /// The release in force.
    current: u32,
    /// Places that are being left: they still serve, but count for nobody.
    retired: Vec<u32>,
}

impl World {
    fn new(old: u32, new: u32, policy: Policy) -> World {
        let member = |id| Member { id, place: id, index: id, revision: OLD };
        World {
            deployment: deployment(old, new, policy),
            view: View { members: (0..old).map(member).collect(), candidates: Vec::new() },
            next: old,
            now: at(1000),
            current: NEW,
            retired: Vec::new(),
        }
    }

    /// Does every step that there is; returns them.
    fn settle(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        loop {
            let before = self.deployment.clone();
            match self.deployment.step(&self.view, self.now) {
                Some(step) => {
                    self.take(step);
                    steps.push(step);
                }
                None if self.deployment == before => return steps,
                None => {}
            }
            assert!(steps.len() < 1000, "it does not come to rest: {steps:?}");
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Beside(_) | Step::Add => {
                let id = self.next;
                self.next += 1;
                let member = self.view.members.iter().find(|member| step == Step::Beside(member.id));
                let place = member.map_or(id, |member| member.place);
                let condition = Condition::Unstarted;
                self.view.candidates.push(Candidate { id, place, revision: self.current, condition });
            }
            Step::Start(id) => *self.condition(id) = Condition::Launching,
            Step::Discard(id) => *self.condition(id) = Condition::Leaving,
            Step::Promote(id) => {
                let at = self.view.candidates.iter().position(|one| one.id == id).unwrap();
                let Candidate { id, place, revision, .. } = self.view.candidates.remove(at);
                let old = self.view.members.iter().position(|member| member.place == place);
                let free = (0..).find(|index| !self.view.members.iter().any(|member| member.index == *index)).unwrap();
                let index = old.map_or(free, |old| self.view.members[old].index);
                if let Some(old) = old {
                    self.retired.push(self.view.members.remove(old).id);
                }
                self.view.members.push(Member { id, place, index, revision });
            }
            Step::Retire(id) => self.view.members.retain(|member| member.id != id),
            Step::TakeBack => self.current = OLD,
        }
    }

    fn condition(&mut self, id: u32) -> &mut Condition {
        &mut self.view.candidates.iter_mut().find(|one| one.id == id).unwrap().condition
    }

    /// What becomes of the first candidate that is on its way.
    fn first(&mut self, condition: Condition) -> bool {
        let on_its_way = |one: &&mut Candidate| matches!(one.condition, Condition::Launching | Condition::Ready { .. });
        let first = self.view.candidates.iter_mut().find(on_its_way);
        first.map(|one| one.condition = condition).is_some()
    }

    fn bury(&mut self) {
        self.view.candidates.retain(|one| one.condition != Condition::Leaving);
    }

    /// Everything goes well from here on.
    fn finish(&mut self) {
        for _ in 0..1000 {
            self.settle();
            if !self.deployment.is_under_way() {
                return self.bury();
            }
            let now = self.now;
            for one in self.view.candidates.iter_mut().filter(|one| one.condition == Condition::Launching) {
                one.condition = Condition::Ready { since: now };
            }
            self.bury();
            self.now = self.deployment.due(&self.view).map_or(self.now, |due| due.max(self.now));
        }
        panic!("it does not end: {self:#?}");
    }

    fn revisions(&self) -> Vec<u32> {
        self.view.members.iter().map(|member| member.revision).collect()
    }
}

#[test]
fn the_canary_is_alone_and_the_old_one_stays_until_it_has_been_ready_for_min_ready() {
    let mut world = World::new(3, 3, Policy { parallel: 2, ..policy() });
    assert_eq!(world.settle(), [Step::Beside(0), Step::Start(3)]);
    world.first(Condition::Ready { since: at(1500) });
    world.now = at(4499);
    assert_eq!(world.settle(), []);
    assert_eq!(world.deployment.due(&world.view), Some(at(4500)));
    world.now = at(4500);
    let wave = [Step::Promote(3), Step::Beside(1), Step::Start(4), Step::Beside(2), Step::Start(5)];
    assert_eq!(world.settle(), wave);
    assert_eq!(world.deployment.phase(), Phase::Waves);
}

#[test]
fn a_canary_that_fails_leaves_everything_as_it_was() {
    let mut world = World::new(3, 3, policy());
    world.settle();
    world.first(Condition::Failed("ended: exit code 3".to_owned()));
    assert_eq!(world.settle(), [Step::Discard(3), Step::TakeBack]);
    assert_eq!(world.deployment.phase(), Phase::TakingBack);
    world.finish();
    assert_eq!(world.deployment.phase(), Phase::Failed);
    assert_eq!((world.revisions(), world.current), (vec![OLD; 3], OLD));
    let reason = Reason { place: Some(0), text: "ended: exit code 3".to_owned() };
    assert_eq!(world.deployment.reason(), Some(&reason));
}

#[test]
fn a_later_failure_takes_back_what_was_replaced() {
    let mut world = World::new(2, 2, policy());
    world.settle();
    world.first(Condition::Ready { since: at(1000) });
    world.now = at(4000);
    world.settle();
    world.first(Condition::Failed("ended".to_owned()));
    world.settle();
    assert_eq!(world.revisions(), [OLD, NEW]);
    world.finish();
    assert_eq!(world.revisions(), [OLD, OLD]);
    assert_eq!(world.deployment.phase(), Phase::Failed);
}

#[test]
fn what_was_replaced_stays_without_roll_back() {
    let mut world = World::new(2, 2, Policy { rollback: false, ..policy() });
    world.settle();
    world.first(Condition::Ready { since: at(1000) });
    world.now = at(4000);
    world.settle();
    world.first(Condition::Failed("ended".to_owned()));
    world.finish();
    assert_eq!(world.deployment.phase(), Phase::Failed);
    assert_eq!((world.revisions(), world.current), (vec![OLD, NEW], NEW));
}

#[test]
fn so_many_failures_as_are_allowed_are_tried_again() {
    let mut world = World::new(1, 1, Policy { max_failures: 1, ..policy() });
    world.settle();
    world.first(Condition::Failed("once".to_owned()));
    assert_eq!(world.settle(), [Step::Discard(1)]);
    world.bury();
    assert_eq!(world.settle(), [Step::Beside(0), Step::Start(2)]);
    world.finish();
    assert_eq!((world.deployment.phase(), world.revisions()), (Phase::Probation { until: at(64_000) }, vec![NEW]));
}

#[test]
fn crashes_of_new_instances_count_while_it_goes_on() {
    let mut world = World::new(2, 2, policy());
    world.settle();
    world.first(Condition::Ready { since: at(1000) });
    world.now = at(4000);
    world.settle();
    world.deployment.note_crash(1, OLD, "ended");
    assert_eq!(world.settle(), [], "one of the old ones says nothing of the new");
    world.deployment.note_crash(0, NEW, "ended");
    assert_eq!(world.settle()[0], Step::TakeBack);
}

#[test]
fn two_crashes_in_the_probation_take_it_back_and_one_does_not() {
    let mut world = World::new(2, 2, policy());
    world.finish();
    let Phase::Probation { until } = world.deployment.phase() else { panic!("{world:?}") };
    world.deployment.note_crash(0, NEW, "ended: signal 11");
    assert_eq!(world.settle(), []);
    let once = world.clone();
    world.deployment.note_crash(1, NEW, "ended: signal 11");
    assert_eq!(world.settle()[0], Step::TakeBack);
    world.finish();
    assert_eq!(world.revisions(), [OLD, OLD]);
    let mut world = once;
    world.now = until;
    world.settle();
    assert_eq!((world.deployment.phase(), world.revisions()), (Phase::Done, vec![NEW, NEW]));
}

#[test]
fn a_release_with_more_or_fewer_instances_adds_or_drops_them_at_the_end() {
    let mut world = World::new(2, 4, policy());
    world.finish();
    assert_eq!(world.revisions(), [NEW; 4]);
    let mut world = World::new(3, 1, policy());
    world.finish();
    assert_eq!(world.view.members.iter().map(|member| member.place).collect::<Vec<_>>(), [0]);
}

#[test]
fn one_that_is_broken_off_drops_what_it_began_and_keeps_the_reason() {
    let mut world = World::new(2, 2, policy());
    world.settle();
    world.deployment.abort("broken off by a stop".to_owned());
    assert_eq!(world.settle(), [Step::Discard(2)]);
    assert_eq!(world.deployment.phase(), Phase::Failed);
    assert_eq!(world.deployment.reason().unwrap().text, "broken off by a stop");
}

#[test]
fn a_way_back_that_fails_too_ends() {
    let mut world = World::new(2, 2, policy());
    world.settle();
    world.first(Condition::Ready { since: at(1000) });
    world.now = at(4000);
    for _ in 0..10 {
        world.settle();
        world.first(Condition::Failed("no".to_owned()));
        world.settle();
        world.bury();
    }
    assert_eq!(world.deployment.phase(), Phase::Failed);
    assert_eq!(world.deployment.reason().unwrap().text, "no; on the way back: no");
}

/// What may happen in the world, besides what a deployment does.
#[derive(Debug, Clone, Copy)]
enum Chance {
    Ready,
    Fails,
    Gone,
    Crash(u32),
    Passes(u64),
    /// The supervisor dies; the next one reads the record.
    Resumed,
    /// The supervisor dies after the record and before the step.
    LostStep,
}

fn chances() -> impl Strategy<Value = Vec<Chance>> {
    let one = prop_oneof![
        4 => Just(Chance::Ready),
        1 => Just(Chance::Fails),
        3 => Just(Chance::Gone),
        1 => (0..6_u32).prop_map(Chance::Crash),
        4 => (1..4000_u64).prop_map(Chance::Passes),
        1 => Just(Chance::Resumed),
        1 => Just(Chance::LostStep),
    ];
    prop::collection::vec(one, 0..60)
}

fn policies() -> impl Strategy<Value = Policy> {
    (0..5_u64, 1..4_u32, 0..3_u32, any::<bool>(), 0..2_u64).prop_map(|(ready, parallel, failures, rollback, trial)| {
        Policy {
            min_ready: Duration::from_secs(ready),
            parallel,
            max_failures: failures,
            rollback,
            probation: Duration::from_secs(60 * trial),
        }
    })
}

impl World {
    fn happen(&mut self, chance: Chance) {
        match chance {
            Chance::Ready => {
                let now = self.now;
                let launching = self.view.candidates.iter_mut().find(|one| one.condition == Condition::Launching);
                launching.map(|one| one.condition = Condition::Ready { since: now });
            }
            Chance::Fails => drop(self.first(Condition::Failed("it fails".to_owned()))),
            Chance::Gone => self.bury(),
            Chance::Crash(which) => {
                if let Some(member) = self.view.members.get(which as usize) {
                    self.deployment.note_crash(member.place, member.revision, "it crashes");
                }
            }
            Chance::Passes(ms) => self.now = self.now + Duration::from_millis(ms),
            Chance::Resumed => self.deployment = Deployment::from_record(&self.deployment.to_record()).unwrap(),
            Chance::LostStep => {
                let step = self.deployment.step(&self.view, self.now);
                // The two are one commit.
                if step == Some(Step::TakeBack) {
                    self.current = OLD;
                }
                self.happen(Chance::Resumed);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_there_are_never_fewer_than_wanted_and_it_ends(
        old in 1..5_u32, new in 1..5_u32, policy in policies(), chances in chances(),
    ) {
        let mut world = World::new(old, new, policy);
        for chance in chances {
            world.happen(chance);
            world.settle();
            prop_assert!(world.view.members.len() as u32 >= old.min(new), "{world:?}");
            let (parallel, candidates) = (policy.parallel as usize, world.view.candidates.len());
            prop_assert!(candidates <= parallel + 1, "too many at once: {world:?}");
            let mut places: Vec<u32> = world.view.members.iter().map(|member| member.place).collect();
            places.sort_unstable();
            places.dedup();
            prop_assert_eq!(places.len(), world.view.members.len(), "a place has one owner");
        }
        world.finish();
        prop_assert!(world.view.candidates.is_empty());
        match world.deployment.phase() {
            Phase::Done | Phase::Probation { .. } => prop_assert_eq!(world.revisions(), vec![NEW; new as usize]),
            Phase::Failed => {
                prop_assert!(world.deployment.reason().is_some());
                let all_old = world.revisions().iter().all(|revision| *revision == OLD);
                prop_assert!(all_old || !policy.rollback || world.deployment.setbacks > SETBACKS_ALLOWED, "{world:?}");
            }
            phase => prop_assert!(false, "{phase:?}"),
        }
    }

    #[test]
    fn a_new_instance_takes_a_place_only_when_it_has_been_ready_for_min_ready(
        old in 1..5_u32, policy in policies(), chances in chances(),
    ) {
        let mut world = World::new(old, old, policy);
        for chance in chances {
            world.happen(chance);
            let before = world.clone();
            for step in world.settle() {
                let Step::Promote(id) = step else { continue };
                let candidate = before.view.candidates.iter().find(|one| one.id == id);
                // With no time to wait, one may come and be promoted within one turn; not here, for none is ready then.
                let Condition::Ready { since } = candidate.unwrap().condition else { panic!("{before:?}") };
                prop_assert!(world.now >= since + policy.min_ready);
            }
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was(
        old in 1..5_u32, new in 1..5_u32, policy in policies(), chances in chances(), text in "\\PC{0,300}",
    ) {
        let mut world = World::new(old, new, policy);
        for chance in chances {
            world.happen(chance);
            world.settle();
        }
        let back = Deployment::from_record(&world.deployment.to_record());
        prop_assert_eq!(back.as_ref(), Some(&world.deployment));
        // Of a text that is too long the beginning stays.
        world.deployment.abort(text.clone());
        let back = Deployment::from_record(&world.deployment.to_record()).unwrap();
        let kept = back.reason().map_or("", |reason| &reason.text);
        prop_assert!(world.deployment.reason().unwrap().text.starts_with(kept));
    }
}

#[test]
fn no_record_is_no_deployment_and_a_spoilt_one_is_none_either() {
    assert_eq!(Deployment::from_record(&[0; record::BYTES]), None);
    assert_eq!(Deployment::from_record(&[0xff; record::BYTES]), None);
}
