/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the attacks share: the report, the judge, and the tools of an attacker
 * who already runs code in the kernel. See attacks.h for the list.
 *
 * Neighbours: main.c (table, debugfs), tools.c, write.c, exec.c, cr.c, msr.c,
 * patch.c, grant.c, disk.c, oops.c, flood.c, sleep.c.
 * Locks: one attack at a time, under the mutex of main.c.
 */
#ifndef _HEKI_ATTACK_H
#define _HEKI_ATTACK_H

#include <linux/types.h>
#include <linux/workqueue.h>

#include <asm/desc_defs.h>

struct file_operations;

enum attack_class {
	ATTACK_WRITE,		/* must fail where writes are sealed */
	ATTACK_EXEC,		/* must fail where execution is an allow-list */
	ATTACK_CR,		/* must fail where the bit is pinned */
	ATTACK_MSR,		/* must fail where the register is pinned */
	ATTACK_DT,		/* must fail where the tables are pinned */
	ATTACK_ALLOWED,		/* must work, sealed or not */
};

enum attack_outcome {
	ATTACK_NOT_RUN,
	ATTACK_SUCCEEDED,
	ATTACK_DENIED,		/* an exception was seen and nothing changed */
	ATTACK_ABSENT,		/* this machine lacks what would be attacked */
	ATTACK_INCONCLUSIVE,
};

struct attack_report {
	enum attack_outcome outcome;
	unsigned int denials;	/* how many the host must have counted */
	char detail[128];
};

struct attack {
	const char *name;
	enum attack_class class;
	const char *what;
	void (*run)(struct attack_report *report);
};

#define ATTACK(name, class, what, run) void run(struct attack_report *report);
#include "attacks.h"

/* main.c */
void attack_judge(struct attack_report *report, int trap, bool changed);
void attack_judge_request(struct attack_report *report, long ret, bool changed);
__printf(3, 4)
void attack_say(struct attack_report *report, enum attack_outcome outcome,
		const char *fmt, ...);

/**
 * struct leaf - the entry that maps an address, at whatever level
 * @entry:	the entry
 * @old:	its value when it was found
 * @addr:	the address
 * @level:	enum pg_level
 */
struct leaf {
	u64 *entry;
	u64 old;
	unsigned long addr;
	unsigned int level;
};

/* tools.c */
bool leaf_find(struct leaf *leaf, unsigned long addr);
unsigned long leaf_size(const struct leaf *leaf);
void leaf_edit(const struct leaf *leaf, u64 set, u64 clear);
void leaf_restore(const struct leaf *leaf);
void flush_here(unsigned long addr);
void flush_everywhere(void);
int try_write(u8 *addr, u8 value);
int try_write_cr0(unsigned long value);
int try_write_cr4(unsigned long value);
int try_write_msr(u32 index, u64 value);
int try_write_xcr0(u64 value);
int try_load_idt(const struct desc_ptr *idt);
int try_load_gdt(const struct desc_ptr *gdt);
int try_load_ldt(u16 selector);
int try_load_tr(u16 selector);
int try_call(unsigned long addr, bool *ran);
void payload_copy(void *to);
bool host_serves_patch(void);
long try_request(u64 op, void *block, size_t len);
int tools_init(void);
void tools_exit(void);

#define PAYLOAD_BYTES	10

/**
 * struct meanwhile - what another CPU does beside an attack
 * @step:	once more, at most MEANWHILE_STEPS times; whether to go on
 * @arg:	its argument
 */
struct meanwhile {
	bool (*step)(void *arg, unsigned int round);
	void *arg;
	/* private: */
	bool stop;
	bool started;
	struct work_struct work;
};

#define MEANWHILE_STEPS	4000000	/* bounds a test that fails */

bool meanwhile_begin(struct meanwhile *meanwhile);
void meanwhile_end(struct meanwhile *meanwhile);

/* oops.c */
extern const struct file_operations oops_fops;

/* flood.c */
extern const struct file_operations flood_fops;

/* sleep.c */
extern bool sleep_allowed;
int sleep_init(void);
void sleep_exit(void);

/* write.c */
void write_through_direct_map(struct attack_report *report, const u8 *target);
const u8 *find_target(struct attack_report *report);
u8 *map_writable(const u8 *target);
void unmap_writable(const u8 *alias);
void neighbour_init(void);
void neighbour_exit(void);

/* patch.c */
int patch_init(void);
void patch_exit(void);

/* grant.c */
int grant_init(void);
void grant_exit(void);

#endif /* _HEKI_ATTACK_H */
