//! What goes wrong in a mesh, by seed; and how it ends.

use super::network::Weather;
use super::run::Run;
use crate::chance::Chance;

/// The most computers of a run.
const COMPUTERS_MAX: usize = 6;

/// What ends a fault.
#[derive(Clone, Copy, Debug)]
enum End {
    Start(usize),
    Resume(usize),
    Heal(usize, usize),
    Clear,
    Usual,
}

/// The faults of a run.
pub struct Faults {
    chance: Chance,
    /// What is to end, and when.
    ends: Vec<(u64, End)>,
    has_wiped: bool,
}

impl Faults {
    /// None yet.
    pub fn new(chance: Chance) -> Faults {
        Faults { chance, ends: Vec::new(), has_wiped: false }
    }

    /// Ends what is due, and does the next.
    pub async fn next(&mut self, run: &mut Run) {
        let now = run.world.clock.now_ms();
        let (due, later): (Vec<_>, Vec<_>) = self.ends.drain(..).partition(|(at, _)| *at <= now);
        self.ends = later;
        for (_, end) in due {
            end.come(run).await;
        }
        self.strike(run).await;
    }

    /// Ends all of them.
    pub async fn end(&mut self, run: &mut Run) {
        for (_, end) in self.ends.drain(..) {
            end.come(run).await;
        }
        run.network.heal();
        run.network.set_weather(Weather::FAIR);
        run.start_all().await;
        run.say("no more faults");
    }

    fn later(&mut self, run: &Run, ms_max: u64, end: End) {
        let at = run.world.clock.now_ms() + self.chance.between(10, ms_max);
        self.ends.push((at, end));
    }

    /// A computer whose node runs.
    fn living(&mut self, run: &Run) -> Option<usize> {
        let living: Vec<usize> = (0..run.computers.len()).filter(|at| run.computers[*at].life.is_some()).collect();
        self.chance.pick(&living).copied()
    }

    async fn strike(&mut self, run: &mut Run) {
        let Some(at) = self.living(run) else { return };
        match self.chance.below(100) {
            0..18 => {
                run.say(format!("the power of n{at} fails"));
                run.world.struck("power of a node failed");
                let seed = self.chance.next();
                run.computers[at].crash(&run.network, Some(seed)).await;
                self.later(run, 9_000, End::Start(at));
            }
            18..30 => {
                run.say(format!("n{at} is killed"));
                run.world.struck("node killed");
                run.computers[at].crash(&run.network, None).await;
                self.later(run, 9_000, End::Start(at));
            }
            30..36 => {
                run.world.struck("planned stop");
                run.stop(at).await;
                self.later(run, 5_000, End::Start(at));
            }
            36..48 => {
                run.say(format!("n{at} is cut off"));
                run.world.struck("node cut off");
                for other in 0..run.computers.len() {
                    cut(run, at, other, true);
                    cut(run, other, at, true);
                    self.later(run, 6_000, End::Heal(at, other));
                }
            }
            48..60 => {
                let Some(other) = self.living(run) else { return };
                let is_both = self.chance.percent(50);
                run.say(format!("no way from n{at} to n{other}, back: {}", !is_both));
                run.world.struck(if is_both { "link cut" } else { "link cut one way" });
                cut(run, at, other, true);
                if is_both {
                    cut(run, other, at, true);
                }
                self.later(run, 6_000, End::Heal(at, other));
            }
            60..70 => {
                run.say(format!("n{at} is paused"));
                run.world.struck("node paused");
                run.computers[at].pause(&run.network);
                self.later(run, 6_000, End::Resume(at));
            }
            70..78 => {
                let weather = Weather {
                    delay_ms: self.chance.between(5, 120),
                    slow_percent: self.chance.below(10),
                    lost_percent: self.chance.below(30),
                    doubled_percent: self.chance.below(20),
                };
                run.say(format!("the network: {weather:?}"));
                run.world.struck("network lost, doubled, delayed");
                run.network.set_weather(weather);
                self.later(run, 8_000, End::Clear);
            }
            78..83 => {
                run.world.struck("disks slow");
                run.world.set_slow(true);
                self.later(run, 4_000, End::Usual);
            }
            83..88 => {
                let ms = self.chance.below(8_000) as i64 - 4_000;
                run.say(format!("the clock of n{at} is off by {ms} ms"));
                run.world.struck("clock off");
                run.computers[at].clock.set_off(ms);
            }
            88..92 if run.computers.len() < COMPUTERS_MAX => {
                run.world.struck("node joined");
                run.add().await;
            }
            92..97 if !self.has_wiped => self.wipe(run, at).await,
            _ => {
                run.say("all power fails");
                run.world.struck("all power failed");
                for at in 0..run.computers.len() {
                    let seed = self.chance.next();
                    run.computers[at].crash(&run.network, Some(seed)).await;
                    self.later(run, 4_000, End::Start(at));
                }
            }
        }
    }

    /// A disk is lost, once in a run, and when everything is replicated: more is not promised.
    async fn wipe(&mut self, run: &mut Run, at: usize) {
        let is_whole = run.computers.iter().all(|computer| computer.life.is_some());
        if run.computers.len() < 3 || !is_whole || run.unrest().is_some() {
            return;
        }
        self.has_wiped = true;
        run.say(format!("the disk of n{at} is lost"));
        run.world.struck("disk lost");
        run.computers[at].crash(&run.network, None).await;
        run.computers[at].wipe(&run.world.clone());
        self.later(run, 9_000, End::Start(at));
    }
}

impl End {
    async fn come(self, run: &mut Run) {
        run.say(format!("ends: {self:?}"));
        match self {
            End::Start(at) => run.start(at).await,
            End::Resume(at) => run.computers[at].resume(&run.network),
            End::Heal(a, b) => {
                cut(run, a, b, false);
                cut(run, b, a, false);
            }
            End::Clear => run.network.set_weather(Weather::FAIR),
            End::Usual => run.world.set_slow(false),
        }
    }
}

fn cut(run: &Run, from: usize, to: usize, is_cut: bool) {
    if let (Some(from), Some(to)) = (run.computers[from].node(), run.computers[to].node())
        && from != to
    {
        run.network.cut(from, to, is_cut);
    }
}
