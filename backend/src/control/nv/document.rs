//! All of network virtualization as one document: judged whole, with everything that is wrong in it, and made so.

use std::collections::{BTreeMap, HashSet};

use vswitch::refusal::{NvRefusal, Object as About, Refusal, Refused};

use super::change::sign;
use super::check::Spec;
use super::object::{Change, Key, Object, RecordKey};
use super::objects::{Known, Objects, Records};
use super::view::described;
use crate::control::Switch;
use crate::control::types::{Difference, NvDocument};

/// Problems of one document that are told.
const TOLD: usize = 100;
/// Changes that are shown one by one.
const SHOWN: usize = 1000;

/// A document that is good in itself.
#[derive(Debug, Default)]
pub(in crate::control) struct Judged {
    objects: Objects,
    records: Records,
}

/// What is wrong with a document; judging goes on until there are enough.
struct Problems(Vec<Refused>);

impl Problems {
    fn note<S: Spec>(&mut self, spec: &S, why: Refusal) {
        if self.0.len() < TOLD {
            self.0.push(why.of(About::Nv { noun: S::NOUN, key: spec.name() }));
        }
    }
}

impl Switch {
    /// Judges a document: every object alone and all together.
    pub(in crate::control) fn nv_judge_document(&self, document: &NvDocument) -> Result<Judged, Refused> {
        self.nv_judge_into(Judged::default(), document)
    }

    fn nv_judge_into(&self, mut judged: Judged, document: &NvDocument) -> Result<Judged, Refused> {
        let mut problems = Problems(Vec::new());
        self.take(&mut judged, &mut problems, &document.network);
        self.take(&mut judged, &mut problems, &document.subnet);
        self.take(&mut judged, &mut problems, &document.route);
        self.take(&mut judged, &mut problems, &document.provider);
        self.take(&mut judged, &mut problems, &document.gateway);
        // What is missing because it was wrong itself need not be told of each record that needs it.
        let whole = problems.0.is_empty();
        self.take(&mut judged, &mut problems, &document.record);
        if !whole {
            problems.0.retain(|problem| {
                !matches!(
                    (&problem.object, &problem.why),
                    (About::Nv { noun: "record", .. }, Refusal::Nv(NvRefusal::UnknownSubnet { .. }))
                )
            });
        }
        let mut problems = problems.0;
        match problems.len() {
            0 => Ok(judged),
            1 => Err(problems.swap_remove(0)),
            _ => {
                let about = About::Nv { noun: "document", key: String::new() };
                Err(Refusal::Nv(NvRefusal::Problems(problems)).of(about))
            }
        }
    }

    fn take<S: Spec>(&self, judged: &mut Judged, problems: &mut Problems, specs: &[S]) {
        for spec in specs {
            let object = match spec.judge() {
                Ok(object) => object,
                Err(why) => {
                    problems.note(spec, why);
                    continue;
                }
            };
            let twice = Refusal::Nv(NvRefusal::Exists { remove: "remove one of the two".into() });
            let result = match &object {
                Object::Record(record) => {
                    let fits = judged.objects.record_fits(record, &judged.records, !self.nv.shared);
                    let key = RecordKey::of(record);
                    fits.and_then(|()| judged.records.record(&key).map_or(Ok(()), |_| Err(twice)))
                }
                object if judged.objects.get(&object.key()).is_some() => Err(twice),
                object => self.nv_fits(&judged.objects, object),
            };
            match (result, object) {
                (Err(why), _) => problems.note(spec, why),
                (Ok(()), Object::Record(record)) => judged.records.add(record),
                (Ok(()), object) => judged.objects.put(object),
            }
        }
    }

    /// What makes the switch equal to a judged document, what others need first, what needs others gone first.
    pub(in crate::control) fn nv_differences(&self, judged: &Judged) -> Vec<Change> {
        let (mut changes, mut gone) = (Vec::new(), Vec::new());
        for object in judged.objects.all() {
            match self.nv.objects.get(&object.key()) {
                Some(there) if there == object => {}
                Some(there) => changes.push(Change::replace(there, object)),
                None => changes.push(Change::create(object)),
            }
        }
        let records = self.nv_configured();
        let mut there = HashSet::with_capacity(records.len());
        for record in records {
            let key = RecordKey::of(&record);
            there.insert(key);
            match judged.records.get(&key) {
                Some(wanted) if *wanted == record => {}
                Some(wanted) => {
                    changes.push(Change::replace(Object::Record(record), Object::Record(*wanted)));
                }
                None => gone.push(Change::remove(Object::Record(record))),
            }
        }
        let mut new: Vec<_> =
            judged.records.iter().filter(|record| !there.contains(&RecordKey::of(record))).collect();
        new.sort_by_key(|record| RecordKey::of(record));
        changes.extend(new.into_iter().map(|record| Change::create(Object::Record(*record))));
        let others: Vec<_> =
            self.nv.objects.all().filter(|object| judged.objects.get(&object.key()).is_none()).collect();
        gone.extend(others.into_iter().rev().map(Change::remove));
        changes.append(&mut gone);
        changes
    }

    /// Makes this draft one of a switch that is equal to a document; of what hosts share, such a document has nothing.
    pub(in crate::control) fn nv_plan(&mut self, wanted: &NvDocument) -> Result<(), Refused> {
        let NvDocument { network, subnet, route, record, .. } = wanted;
        let shares = !(network.is_empty() && subnet.is_empty() && route.is_empty() && record.is_empty());
        if self.nv.shared && shares {
            let (setting, value) = ("nv".into(), "what hosts share".into());
            let valid = "providers and gateways here, and all else by 'turnpike nv import'".into();
            return Err(Refusal::BadValue { setting, value, valid }.of(About::Switch));
        }
        let mut changes = if self.nv.shared {
            let shared: Vec<_> = self.nv.objects.all().filter(|object| !object.key().is_local()).collect();
            let mut judged = Judged::default();
            for object in shared {
                judged.objects.put(object);
            }
            self.nv_judge_into(judged, wanted).map(|judged| self.nv_differences(&judged))?
        } else {
            self.nv_judge_document(wanted).map(|judged| self.nv_differences(&judged))?
        };
        if self.nv.shared {
            changes.retain(|change| change.key.is_local());
        }
        for change in &changes {
            match &change.after {
                Some(object) => self.nv.objects.put(object.clone()),
                None => self.nv.objects.remove(&change.key),
            }
        }
        self.nv.planned = changes;
        Ok(())
    }

    /// What belongs into the document of this switch.
    pub(in crate::control) fn nv_saved(&self) -> NvDocument {
        if self.nv.shared {
            let (provider, gateway) = (self.nv_providers(), self.nv_gateways());
            return NvDocument { provider, gateway, ..NvDocument::default() };
        }
        self.nv_export()
    }

    /// The changes that make the switch equal to a document.
    pub fn nv_import(&self, document: &NvDocument) -> Result<Vec<Change>, Refused> {
        let judged = self.nv_judge_document(document);
        self.told(judged.map(|judged| self.nv_differences(&judged)))
    }
}

/// Records of one document that is a part of a larger one.
const PART: usize = 10_000;

impl Switch {
    /// Everything, in documents of a size that a message has room for. Objects need only what is before them.
    pub fn nv_offer(&self) -> Vec<NvDocument> {
        let mut whole = self.nv_export();
        let records = std::mem::take(&mut whole.record);
        let parts =
            records.chunks(PART).map(|part| NvDocument { record: part.to_vec(), ..NvDocument::default() });
        let parts: Vec<_> = parts.collect();
        let mut all = vec![whole];
        all.extend(parts);
        all.retain(|document| *document != NvDocument::default());
        all
    }
}

/// The objects of a document, each judged alone.
pub fn objects(document: &NvDocument) -> Result<Vec<Object>, Refused> {
    fn judge<S: Spec>(specs: &[S]) -> impl Iterator<Item = Result<Object, Refused>> {
        let one =
            |spec: &S| spec.judge().map_err(|why| why.of(About::Nv { noun: S::NOUN, key: spec.name() }));
        specs.iter().map(one)
    }
    let NvDocument { network, subnet, route, provider, gateway, record } = document;
    let few = judge(network).chain(judge(subnet)).chain(judge(route));
    few.chain(judge(provider)).chain(judge(gateway)).chain(judge(record)).collect()
}

/// Changes as differences are shown; of many records only how many.
pub fn lines(changes: &[Change]) -> Vec<Difference> {
    let line = |change: &Change| Difference {
        op: sign(change).to_owned(),
        object: change.key.object().to_string(),
        text: change.after.as_ref().map(described).unwrap_or_default(),
    };
    if changes.len() <= SHOWN {
        return changes.iter().map(line).collect();
    }
    let is_record = |change: &&Change| matches!(change.key, Key::Record(_));
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for change in changes.iter().filter(is_record) {
        *counts.entry(sign(change)).or_default() += 1;
    }
    let others = changes.iter().filter(|change| !is_record(change)).map(line);
    let records = counts.into_iter().map(|(op, count)| Difference {
        op: op.to_owned(),
        object: "records".to_owned(),
        text: format!("{count} of them"),
    });
    others.chain(records).collect()
}
