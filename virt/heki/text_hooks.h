/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What heki_guest needs of the kernel's text and no symbol for modules gives.
 *
 * Neighbours: text_hooks.c is built in, shim.c calls it. Locks: said at each.
 */
#ifndef _HEKI_TEXT_HOOKS_H
#define _HEKI_TEXT_HOOKS_H

#include <linux/guest_text.h>
#include <linux/types.h>

#include <uapi/linux/heki.h>

struct module;
struct pt_regs;

/**
 * struct heki_fault - a general protection fault of this kernel
 * @ip:		the instruction
 * @value:	the address that it names, or what it loads
 * @limit:	what it loads as the limit of IDTR or GDTR
 * @kind:	HEKI_FAULT_*
 * @reg:	HEKI_REG_* that it loads
 * @index:	number of the MSR that it loads, else 0
 */
struct heki_fault {
	u64 ip;
	u64 value;
	u64 limit;
	u32 kind;
	u32 reg;
	u32 index;
};

#define HEKI_FAULT_OTHER	0
#define HEKI_FAULT_MEMORY	1	/* it names memory */
#define HEKI_FAULT_CR		2	/* it loads CR0 or CR4 */
#define HEKI_FAULT_LOAD		3	/* it loads another register; of TR @value is the selector */

/* Says in @fault what the instruction at which @regs stopped does. Does not sleep. */
void heki_text_fault(struct heki_fault *fault, struct pt_regs *regs);

/**
 * heki_text_install() - have the kernel call hooks where it changes text
 * @get_ops:	returns all of them, in memory that is never written
 *
 * Writes text itself. May sleep.
 */
void heki_text_install(const struct guest_text_ops *(*get_ops)(void));

/* Undoes heki_text_install(); calls that began before may still run. */
void heki_text_remove(void);

/* text_mutex: nobody changes text between the two. */
void heki_text_lock(void);
void heki_text_unlock(void);

/* Most areas of the kernel itself. */
#define HEKI_TEXT_AREAS		(HEKI_AREA_COUNT + HEKI_MAX_FROZEN)

/**
 * heki_text_areas() - what the host must know of the kernel's own text
 * @areas:	room for HEKI_TEXT_AREAS
 *
 * Returns how many there are.
 */
unsigned int heki_text_areas(struct heki_area *areas);

/* One site: @len bytes at @addr, which become those at @new. */
void heki_text_site(struct heki_site *site, const void *addr, const void *new,
		    size_t len);

/**
 * heki_text_poke() - the site of one poke of the kernel
 * @site:	is filled
 * @addr:	where
 * @new:	what shall stand there
 * @len:	how many bytes
 *
 * That of a slot of kprobes is all of the slot, with INT3 behind the copy. Returns
 * false if it is neither that nor one instruction nor the pad of a function.
 */
bool heki_text_poke(struct heki_site *site, const void *addr, const void *new,
		    size_t len);

/* The sites of a batch of the kernel; @nr is HEKI_MAX_PATCHES at most. */
void heki_text_sites(struct heki_site *sites, const struct smp_text_poke_loc *vec,
		     unsigned int nr);

/* Tells perf that @sites have changed. */
void heki_text_changed(const struct heki_site *sites, unsigned int nr);

/* Whether functions are traced. What is on its way to it waits for text_mutex. */
bool heki_text_traced(void);

/* Refuses all tracing of functions, for good. None may be traced. */
void heki_text_stop_ftrace(void);

/* Whether breakpoints of kprobes may be in the text: some were since boot. */
bool heki_text_probed(void);

/*
 * Takes the functions of @mod from those that can be traced. None of them may be
 * traced. Takes ftrace_lock, which comes before text_mutex.
 */
void heki_text_untrace(struct module *mod);

#endif /* _HEKI_TEXT_HOOKS_H */
