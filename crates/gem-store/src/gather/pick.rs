//! Which files a round takes.

use std::collections::BTreeMap;

use super::round::{Gatherer, Source};
use crate::StoreError;
use crate::index::locations::{self, Holder};
use crate::objects::ObjectInfo;

impl Gatherer {
    /// The files of the next round; empty where there is nothing to do. In this order: what can be
    /// given up at once; the oldest journal files while the journal is over its limit; objects of
    /// which little is live.
    pub(super) fn pick(&self) -> Result<Vec<Source>, StoreError> {
        // Objects first: one that is published after this is not looked at, one that was published
        // before had its locations written before.
        let objects = self.objects.list();
        let live = self.live()?;
        let dead = self.dead(&live, &objects);
        if !dead.is_empty() {
            return Ok(dead);
        }
        let old = self.oldest();
        if !old.is_empty() {
            return Ok(old);
        }
        Ok(self.sparse(&live, &objects))
    }

    /// The live bytes of every file, over all shards.
    fn live(&self) -> Result<BTreeMap<Holder, u64>, StoreError> {
        let mut live = BTreeMap::new();
        for (group, _) in self.journal.groups() {
            // The staged one first: it may take the other's place between the two looks.
            let staged = self.host.staged(group);
            for store in staged.into_iter().chain(self.host.store(group)) {
                for (holder, bytes) in locations::live_files(&*store)? {
                    *live.entry(holder).or_default() += bytes;
                }
            }
        }
        Ok(live)
    }

    fn dead(&self, live: &BTreeMap<Holder, u64>, objects: &[ObjectInfo]) -> Vec<Source> {
        let files = self.journal.files().into_iter().filter(|file| file.sealed && file.entries == 0);
        let files = files.map(|file| Source::Journal { file: file.file, generation: file.generation });
        let objects = objects.iter().map(|object| Source::Object(object.object));
        let dead = files.chain(objects).filter(|source| !live.contains_key(&source.holder()) && self.may_take(source));
        dead.take(16 * self.config.files_per_round.max(1)).collect()
    }

    fn oldest(&self) -> Vec<Source> {
        let mut files = self.journal.files();
        files.sort_by_key(|file| file.generation);
        let mut over = files.iter().map(|file| file.size).sum::<u64>().saturating_sub(self.config.journal_limit);
        let mut taken = Vec::new();
        for file in files.iter().filter(|file| file.sealed) {
            let source = Source::Journal { file: file.file, generation: file.generation };
            if over == 0 || taken.len() >= self.config.files_per_round.max(1) {
                break;
            }
            if self.may_take(&source) {
                over = over.saturating_sub(file.size);
                taken.push(source);
            }
        }
        taken
    }

    fn sparse(&self, live: &BTreeMap<Holder, u64>, objects: &[ObjectInfo]) -> Vec<Source> {
        // What a staged index points to can't be moved: it is not complete yet.
        if self.journal.groups().iter().any(|(group, _)| self.host.staged(*group).is_some()) {
            return Vec::new();
        }
        let mut taken = Vec::new();
        let mut bytes = 0u64;
        for object in objects {
            let source = Source::Object(object.object);
            let alive = live.get(&source.holder()).copied().unwrap_or(0);
            let is_sparse = alive.saturating_mul(100) < object.size.saturating_mul(self.config.object_live_percent);
            if !is_sparse || !self.may_take(&source) {
                continue;
            }
            bytes = bytes.saturating_add(alive);
            if !taken.is_empty() && bytes > self.config.object_bytes {
                break;
            }
            taken.push(source);
        }
        taken
    }

    fn may_take(&self, source: &Source) -> bool {
        !self.set_aside.contains(&source.holder())
    }
}
