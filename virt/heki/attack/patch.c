// SPDX-License-Identifier: GPL-2.0
/*
 * Attacks that ask the host to change text, which it does for a sealed kernel.
 *
 * Each sends a PATCH request that a host must refuse, and looks at the text
 * afterwards. Where no host serves such requests, the attacker does what he
 * does then: he writes a byte of the same site himself, and puts it back. The
 * sites are those of this module, so that nobody else runs them.
 *
 * Neighbours: main.c, tools.c, write.c. Locks: none, one attack at a time.
 */
#include <linux/ctype.h>
#include <linux/jump_label.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/static_call.h>
#include <linux/string.h>

#include <asm/nops.h>
#include <asm/text-patching.h>

#include <uapi/linux/heki.h>

#include "heki_attack.h"

#define JUMP_BYTES	8	/* more than any jump label has */
#define RACE_ROUNDS	64

/* A PATCH request as it lies in memory. */
struct request {
	struct heki_patch header;
	struct heki_site sites[HEKI_MAX_PATCHES];
};

static struct request *request;
static u8 (*before)[sizeof_field(struct heki_site, old)];

static const u8 nop2[] = { BYTES_NOP2 };
static const u8 nop5[] = { BYTES_NOP5 };

/* The victims: a jump label, as many as a request takes, and a static call. */
static DEFINE_STATIC_KEY_FALSE(victim_key);
static DEFINE_STATIC_KEY_FALSE(crowd_key);

static noinline __used int victim_branch(void)
{
	return static_branch_unlikely(&victim_key) ? 1 : 0;
}

/* Its key is one that VMMs freeze. */
static noinline __used bool frozen_branch(void)
{
	return want_init_on_alloc(0);
}

/* A key of the attacker's own, and where he says that its site is. */
static DEFINE_STATIC_KEY_FALSE(lever_key);
static struct jump_entry forged;

#define BRANCH		if (static_branch_unlikely(&crowd_key)) n++;
#define BRANCH_4	BRANCH BRANCH BRANCH BRANCH
#define BRANCH_16	BRANCH_4 BRANCH_4 BRANCH_4 BRANCH_4
#define BRANCH_64	BRANCH_16 BRANCH_16 BRANCH_16 BRANCH_16

static noinline __used int crowd(void)
{
	int n = 0;

	BRANCH_64 BRANCH_64 BRANCH_64 BRANCH_64
	return n;
}

static noinline int victim_callee(void)
{
	barrier();
	return 1;
}

/* Somebody uses its address, so it is a function that may be called so. */
static noinline long other_type(long a, void *b)
{
	barrier();
	return a;
}

static long (*volatile other_callee)(long a, void *b) __used = other_type;

DEFINE_STATIC_CALL(victim_call, victim_callee);

static noinline __used int victim_caller(void)
{
	return static_call(victim_call)() + 1;
}

/* A change of what stands at @va now to @new. */
static void set_site(struct heki_site *site, const void *va, const void *new, size_t len)
{
	*site = (struct heki_site) {
		.va = (unsigned long)va,
		.len = len,
	};
	memcpy(site->old, va, len);
	memcpy(site->new, new, len);
}

/* The jump entries of @key in this module; they are sorted by key. */
static struct jump_entry *find_jumps(const struct static_key *key, unsigned int *nr)
{
	struct jump_entry *entry = THIS_MODULE->jump_entries;
	struct jump_entry *end = entry + THIS_MODULE->num_jump_entries;
	struct jump_entry *first;

	while (entry < end && jump_entry_key(entry) != key)
		entry++;
	first = entry;
	while (entry < end && jump_entry_key(entry) == key)
		entry++;
	*nr = entry - first;
	return *nr ? first : NULL;
}

/* A legal change: a jump label's NOP to its jump, or the other way round. */
static void set_jump(struct heki_site *site, const struct jump_entry *entry)
{
	const u8 *va = (u8 *)jump_entry_code(entry);
	void *target = (void *)jump_entry_target(entry);
	u8 new[JUMP_BYTES];

	if (!memcmp(va, nop2, sizeof(nop2))) {
		__text_gen_insn(new, JMP8_INSN_OPCODE, va, target, JMP8_INSN_SIZE);
		set_site(site, va, new, JMP8_INSN_SIZE);
	} else if (!memcmp(va, nop5, sizeof(nop5))) {
		__text_gen_insn(new, JMP32_INSN_OPCODE, va, target, JMP32_INSN_SIZE);
		set_site(site, va, new, JMP32_INSN_SIZE);
	} else if (*va == JMP8_INSN_OPCODE) {
		set_site(site, va, nop2, sizeof(nop2));
	} else {
		set_site(site, va, nop5, sizeof(nop5));
	}
}

static bool set_victim_jump(struct attack_report *report, struct heki_site *site)
{
	struct jump_entry *entry;
	unsigned int nr;

	entry = find_jumps(&victim_key.key, &nr);
	if (!entry) {
		attack_say(report, ATTACK_INCONCLUSIVE, "no jump label found");
		return false;
	}
	set_jump(site, entry);
	return true;
}

/* Where victim_caller() calls. */
static u8 *find_call(struct attack_report *report)
{
	struct static_call_site *site = THIS_MODULE->static_call_sites;
	struct static_call_site *end = site + THIS_MODULE->num_static_call_sites;

	for (; site < end; site++) {
		unsigned long key = (unsigned long)&site->key + site->key;

		if ((key & ~STATIC_CALL_SITE_FLAGS) == (unsigned long)&STATIC_CALL_KEY(victim_call))
			return (u8 *)&site->addr + site->addr;
	}
	attack_say(report, ATTACK_INCONCLUSIVE, "no static call found");
	return NULL;
}

static bool set_call(struct attack_report *report, struct heki_site *site, void *target)
{
	u8 *va = find_call(report);
	u8 new[CALL_INSN_SIZE];

	if (!va)
		return false;
	__text_gen_insn(new, CALL_INSN_OPCODE, va, target, CALL_INSN_SIZE);
	set_site(site, va, new, sizeof(new));
	return true;
}

static long send(unsigned int nr)
{
	request->header.version = HEKI_ABI_VERSION;
	request->header.nr_sites = nr;
	return try_request(HEKI_OP_PATCH, request,
			   sizeof(request->header) + nr * sizeof(request->sites[0]));
}

static void remember(unsigned int nr)
{
	for (unsigned int i = 0; i < nr; i++)
		memcpy(before[i], (void *)request->sites[i].va, request->sites[i].len);
}

static bool has_changed(unsigned int nr)
{
	for (unsigned int i = 0; i < nr; i++)
		if (memcmp(before[i], (void *)request->sites[i].va, request->sites[i].len))
			return true;
	return false;
}

/* What an attack changed, the same way back. */
static void put_back(unsigned int nr)
{
	for (unsigned int i = 0; i < nr; i++)
		set_site(&request->sites[i], (void *)request->sites[i].va, before[i],
			 request->sites[i].len);
	send(nr);
}

/* Sends the request, or writes the first byte of site @bad of it. */
static void change(struct attack_report *report, unsigned int nr, unsigned int bad)
{
	bool changed;
	long ret;

	if (!host_serves_patch()) {
		write_through_direct_map(report, (u8 *)request->sites[bad].va);
		return;
	}
	remember(nr);
	ret = send(nr);
	changed = has_changed(nr);
	if (changed)
		put_back(nr);
	attack_judge_request(report, ret, changed);
}

void attack_patch_unlisted(struct attack_report *report)
{
	const u8 *padding = find_target(report);

	if (!padding)
		return;
	set_site(&request->sites[0], padding, nop5, sizeof(nop5));
	change(report, 1, 0);
}

void attack_patch_target(struct attack_report *report)
{
	struct heki_site *site = &request->sites[0];

	if (!set_victim_jump(report, site))
		return;
	/* One byte further than the jump label says. */
	site->new[1]++;
	change(report, 1, 0);
}

void attack_patch_truncated(struct attack_report *report)
{
	static const u8 jump_to_itself[] = { JMP8_INSN_OPCODE, 0xfe };
	u8 *call = find_call(report);

	if (!call)
		return;
	set_site(&request->sites[0], call, jump_to_itself, sizeof(jump_to_itself));
	change(report, 1, 0);
}

void attack_patch_shifted(struct attack_report *report)
{
	u8 *call = find_call(report);

	if (!call)
		return;
	set_site(&request->sites[0], call + 1, nop5, sizeof(nop5));
	change(report, 1, 0);
}

void attack_patch_across(struct attack_report *report)
{
	const u8 *padding = find_target(report);

	if (!padding)
		return;
	/* Without a host to ask he writes the padding: others may run what lies there. */
	if (host_serves_patch())
		padding = (u8 *)PAGE_ALIGN((unsigned long)padding) - 2;
	set_site(&request->sites[0], padding, nop5, sizeof(nop5));
	change(report, 1, 0);
}

void attack_patch_int3(struct attack_report *report)
{
	struct heki_site *site = &request->sites[0];

	if (!set_victim_jump(report, site))
		return;
	site->new[0] = INT3_INSN_OPCODE;
	change(report, 1, 0);
}

void attack_patch_old(struct attack_report *report)
{
	struct heki_site *site = &request->sites[0];

	if (!set_victim_jump(report, site))
		return;
	/* It holds the one form; say that it holds the other. */
	memcpy(site->old, site->new, sizeof(site->old));
	memcpy(site->new, (void *)site->va, site->len);
	change(report, 1, 0);
}

void attack_patch_replay(struct attack_report *report)
{
	struct heki_site *site = &request->sites[0];

	if (!set_victim_jump(report, site))
		return;
	/* The kernel makes the change; the attacker repeats its request. */
	static_branch_enable(&victim_key);
	change(report, 1, 0);
	static_branch_disable(&victim_key);
}

/* Puts @site among the @nr of the request, which ascend. Returns where. */
static unsigned int insert_site(const struct heki_site *site, unsigned int nr)
{
	struct heki_site *at = request->sites;

	while (at < request->sites + nr && at->va < site->va)
		at++;
	memmove(at + 1, at, (request->sites + nr - at) * sizeof(*at));
	*at = *site;
	return at - request->sites;
}

void attack_patch_batch(struct attack_report *report)
{
	struct jump_entry *entry;
	struct heki_site site;
	unsigned int nr, bad;

	entry = find_jumps(&crowd_key.key, &nr);
	if (!entry || nr < HEKI_MAX_PATCHES - 1) {
		attack_say(report, ATTACK_INCONCLUSIVE, "only %u jump labels found", nr);
		return;
	}
	nr = HEKI_MAX_PATCHES - 1;
	for (unsigned int i = 0; i < nr; i++)
		set_jump(&request->sites[i], &entry[i]);
	if (!set_victim_jump(report, &site))
		return;
	site.new[1]++;
	bad = insert_site(&site, nr);
	change(report, nr + 1, bad);
}

/* The other CPU's part of a race: turns what is asked for bad and good again. */
static bool spoil(void *arg, unsigned int round)
{
	u8 *byte = arg;

	WRITE_ONCE(*byte, *byte ^ 0x80);
	return true;
}

/*
 * One legal change, which the other CPU spoils and mends. Returns whether the
 * site then holds neither what it held nor what is legal.
 */
static bool race_once(struct attack_report *report, struct heki_site *site,
		      unsigned int delay)
{
	struct meanwhile meanwhile = { .step = spoil, .arg = &site->new[1] };
	struct heki_site legal;
	const void *va;

	if (!set_victim_jump(report, site))
		return false;
	legal = *site;
	va = (void *)legal.va;
	if (!meanwhile_begin(&meanwhile)) {
		attack_say(report, ATTACK_ABSENT, "there is no second vCPU");
		return false;
	}
	for (unsigned int i = 0; i < delay; i++)
		cpu_relax();
	if (send(1))
		report->denials++;
	meanwhile_end(&meanwhile);
	return memcmp(va, legal.old, legal.len) && memcmp(va, legal.new, legal.len);
}

void attack_patch_race(struct attack_report *report)
{
	struct heki_site *site = &request->sites[0];
	bool won = false;

	if (!set_victim_jump(report, site))
		return;
	if (!host_serves_patch()) {
		write_through_direct_map(report, (u8 *)site->va);
		return;
	}
	remember(1);
	for (int i = 0; i < RACE_ROUNDS && !won && report->outcome == ATTACK_NOT_RUN; i++)
		won = race_once(report, site, i);
	if (won)
		attack_say(report, ATTACK_SUCCEEDED, "changed to what is not legal");
	else if (!report->denials)
		attack_say(report, ATTACK_INCONCLUSIVE, "the host never saw a bad request");
	else
		attack_say(report, ATTACK_DENIED, "in %d rounds", RACE_ROUNDS);
	if (has_changed(1))
		put_back(1);
}

/* A jump of a key that is frozen, for the request; says so if there is none. */
static struct jump_entry *set_frozen_jump(struct attack_report *report)
{
	struct jump_entry *entry;
	unsigned int nr;

	entry = find_jumps(&init_on_alloc.key, &nr);
	if (entry)
		set_jump(&request->sites[0], entry);
	else
		attack_say(report, ATTACK_ABSENT, "this kernel has no such key");
	return entry;
}

void attack_patch_frozen(struct attack_report *report)
{
	if (set_frozen_jump(report))
		change(report, 1, 0);
}

/* Says that the site of @entry, as it is, belongs to lever_key, which is off. */
static void forge_jump(const struct jump_entry *entry)
{
	const u8 *va = (u8 *)jump_entry_code(entry);
	bool jumps = *va == JMP8_INSN_OPCODE || *va == JMP32_INSN_OPCODE;

	forged.code = jump_entry_code(entry) - (unsigned long)&forged.code;
	forged.target = jump_entry_target(entry) - (unsigned long)&forged.target;
	forged.key = (unsigned long)&lever_key.key - (unsigned long)&forged.key + jumps;
}

/*
 * Has the kernel flip lever_key. Each of what is written for it is plain data.
 * Returns whether the foreign site followed; then it followed back, too.
 */
static bool pull_lever(void)
{
	struct jump_entry *entries = THIS_MODULE->jump_entries;
	unsigned int nr = THIS_MODULE->num_jump_entries;
	struct static_key *lever = &lever_key.key;
	unsigned long type = lever->type;
	bool changed;

	lever->type = (unsigned long)&forged | (type & JUMP_TYPE_MASK);
	THIS_MODULE->jump_entries = &forged;
	THIS_MODULE->num_jump_entries = 1;
	static_key_enable(lever);
	changed = has_changed(1);
	if (changed)
		static_key_disable(lever);
	else
		/* The kernel would miss what it takes for its own change. */
		atomic_set(&lever->enabled, 0);
	THIS_MODULE->num_jump_entries = nr;
	THIS_MODULE->jump_entries = entries;
	lever->type = type;
	return changed;
}

void attack_jump_forged(struct attack_report *report)
{
	struct jump_entry *entry = set_frozen_jump(report);

	if (!entry)
		return;
	remember(1);
	forge_jump(entry);
	if (pull_lever()) {
		attack_say(report, ATTACK_SUCCEEDED, "the site of a frozen key followed another key");
	} else if (host_serves_patch()) {
		/* Of the batch, and of the same site alone. */
		report->denials = 2;
		attack_say(report, ATTACK_DENIED, "the kernel asked in vain, unchanged");
	} else {
		attack_say(report, ATTACK_INCONCLUSIVE, "no change");
	}
}

void attack_patch_rodata(struct attack_report *report)
{
	/* The classes of the last characters of Latin-1. */
	set_site(&request->sites[0], &_ctype[256 - sizeof(nop5)], nop5, sizeof(nop5));
	change(report, 1, 0);
}

void attack_patch_data(struct attack_report *report)
{
	static u8 data[sizeof(nop5)] = { BYTES_NOP5 };

	set_site(&request->sites[0], data, (u8 [sizeof(nop5)]){ CALL_INSN_OPCODE }, sizeof(nop5));
	change(report, 1, 0);
}

void attack_call_middle(struct attack_report *report)
{
	u8 *middle = (u8 *)crowd;

	/* Or objtool would complain of what is intended. */
	OPTIMIZER_HIDE_VAR(middle);
	if (set_call(report, &request->sites[0], middle + 16))
		change(report, 1, 0);
}

void attack_call_type(struct attack_report *report)
{
	if (set_call(report, &request->sites[0], other_callee))
		change(report, 1, 0);
}

int patch_init(void)
{
	request = kzalloc_obj(*request);
	before = kcalloc(HEKI_MAX_PATCHES, sizeof(*before), GFP_KERNEL);
	if (request && before)
		return 0;
	patch_exit();
	return -ENOMEM;
}

void patch_exit(void)
{
	kfree(before);
	kfree(request);
}
