/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the attacks share: the report, the judge, and the tools of an attacker
 * who already runs code in the kernel. See main.c for the list.
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
void attack_text_direct_map(struct attack_report *report);
void attack_text_vmap(struct attack_report *report);
void attack_idt(struct attack_report *report);
void attack_trampoline(struct attack_report *report);
void attack_text_split(struct attack_report *report);
void attack_rodata(struct attack_report *report);
void attack_ro_after_init(struct attack_report *report);
void attack_module_text(struct attack_report *report);
void attack_neighbour(struct attack_report *report);
void neighbour_init(void);
void neighbour_exit(void);

/* exec.c */
void attack_exec_vmalloc(struct attack_report *report);
void attack_exec_data(struct attack_report *report);
void attack_exec_new_memory(struct attack_report *report);
void attack_exec_user_alias(struct attack_report *report);
void attack_exec_user_smep(struct attack_report *report);

/* patch.c */
void attack_patch_unlisted(struct attack_report *report);
void attack_patch_target(struct attack_report *report);
void attack_patch_truncated(struct attack_report *report);
void attack_patch_shifted(struct attack_report *report);
void attack_patch_across(struct attack_report *report);
void attack_patch_int3(struct attack_report *report);
void attack_patch_old(struct attack_report *report);
void attack_patch_replay(struct attack_report *report);
void attack_patch_batch(struct attack_report *report);
void attack_patch_race(struct attack_report *report);
void attack_patch_frozen(struct attack_report *report);
void attack_jump_forged(struct attack_report *report);
void attack_patch_rodata(struct attack_report *report);
void attack_patch_data(struct attack_report *report);
void attack_call_middle(struct attack_report *report);
void attack_call_type(struct attack_report *report);
int patch_init(void);
void patch_exit(void);

/* grant.c */
void attack_grant_code(struct attack_report *report);
void attack_grant_pool(struct attack_report *report);
void attack_grant_trampoline(struct attack_report *report);
void attack_grant_race(struct attack_report *report);
void attack_release_text(struct attack_report *report);
int grant_init(void);
void grant_exit(void);

/* disk.c */
void attack_disk_text(struct attack_report *report);

/* cr.c */
void attack_cr0_ne(struct attack_report *report);
void attack_cr0_wp(struct attack_report *report);
void attack_cr0_am(struct attack_report *report);
void attack_cr4_smep(struct attack_report *report);
void attack_cr4_smap(struct attack_report *report);
void attack_cr4_umip(struct attack_report *report);
void attack_cr4_fsgsbase(struct attack_report *report);
void attack_cr4_cet(struct attack_report *report);

/* msr.c */
void attack_idtr(struct attack_report *report);
void attack_gdtr(struct attack_report *report);
void attack_idtr_limit(struct attack_report *report);
void attack_gdtr_limit(struct attack_report *report);
void attack_ldtr(struct attack_report *report);
void attack_tr(struct attack_report *report);
void attack_xcr0(struct attack_report *report);
void attack_efer(struct attack_report *report);
void attack_star(struct attack_report *report);
void attack_lstar(struct attack_report *report);
void attack_cstar(struct attack_report *report);
void attack_sfmask(struct attack_report *report);
void attack_sysenter_cs(struct attack_report *report);
void attack_sysenter_esp(struct attack_report *report);
void attack_sysenter_eip(struct attack_report *report);
void attack_pat(struct attack_report *report);
void attack_apic_base(struct attack_report *report);
void attack_misc_enable(struct attack_report *report);
void attack_xss(struct attack_report *report);
void attack_s_cet(struct attack_report *report);
void attack_pl0_ssp(struct attack_report *report);
void attack_pl1_ssp(struct attack_report *report);
void attack_pl2_ssp(struct attack_report *report);
void attack_ssp_table(struct attack_report *report);
void attack_feature_control(struct attack_report *report);
void attack_vm_cr(struct attack_report *report);
void attack_tsx_ctrl(struct attack_report *report);
void attack_de_cfg(struct attack_report *report);

#endif /* _HEKI_ATTACK_H */
