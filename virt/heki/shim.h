/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The C half of heki_guest: inline functions, macros and alternatives of the
 * kernel that Rust cannot reach. No decision is made here.
 *
 * Neighbours: ffi.rs declares the same functions for Rust; keep both in step.
 * Locks: none of its own.
 */
#ifndef _HEKI_GUEST_SHIM_H
#define _HEKI_GUEST_SHIM_H

#include <linux/types.h>

struct heki_area;
struct heki_fault;
struct smp_text_poke_loc;

/**
 * struct heki_leaf - what one page-table entry maps
 * @phys:	first byte of the page, if present
 * @size:	bytes that the entry, or the hole, spans
 * @present:	the hardware would use the entry
 * @writable:	it allows writes
 * @executable: it allows execution
 */
struct heki_leaf {
	u64 phys;
	u64 size;
	bool present;
	bool writable;
	bool executable;
};

/**
 * struct heki_areas - where the kernel keeps what may be sealed
 * @image:	first byte of the kernel image mapping
 * @modules:	first byte after it and of the module area
 * @modules_end: first byte after that
 * @low:	the direct map of address 0
 * @low_end:	the direct map of 1 MiB
 */
struct heki_areas {
	u64 image;
	u64 modules;
	u64 modules_end;
	u64 low;
	u64 low_end;
};

/**
 * struct heki_expected - what bits of a register should be on every CPU
 * @mask:	the bits
 * @value:	with these
 * @reg:	HEKI_REG_*
 * @index:	as in struct heki_pin
 * @differs:	set if some CPU has others
 */
struct heki_expected {
	u64 mask;
	u64 value;
	u32 reg;
	u32 index;
	bool differs;
};

/**
 * struct heki_clock - the clocksource in use
 * @early:	it is one that the kernel means to replace
 * @changes:	how often it was changed, modulo 256
 */
struct heki_clock {
	bool early;
	u8 changes;
};

/* What heki_guest_judge() returns, besides 0. */
#define HEKI_DENIED_WRITE	1	/* of the address */
#define HEKI_DENIED_EXEC	2	/* of the address */
#define HEKI_DENIED_CR		3	/* to clear the bits */
#define HEKI_DENIED_LOAD	4	/* to change the bits of a register that has a name */

/**
 * struct heki_denial - what the host denied
 * @aim:	the address, or the bits
 * @name:	of the register, no string
 * @name_len:	its length
 */
struct heki_denial {
	u64 aim;
	const char *name;
	size_t name_len;
};

bool heki_shim_on_kvm(void);
long heki_shim_hypercall(u64 op, u64 gpa, u64 len);
u64 heki_shim_gpa(const void *ptr);
u64 heki_shim_idt(void);
void heki_shim_areas(struct heki_areas *areas);
void heki_shim_leaf(u64 addr, struct heki_leaf *leaf);
u64 heki_shim_cr0(void);
u64 heki_shim_cr4(void);
bool heki_shim_read_register(u32 reg, u32 index, u64 *value);
void heki_shim_compare_everywhere(struct heki_expected *all, size_t nr);
void heki_shim_clock(struct heki_clock *clock);
void heki_shim_quiesce(void);
bool heki_shim_modules_settled(void);
int heki_shim_write_sysctl(const char *path, const char *value);
ssize_t heki_shim_read_sysctl(const char *path, char *value, size_t len);
bool heki_shim_crash_kernel(void);
int heki_shim_block(void);
void heki_shim_unblock(void);
void heki_shim_watch_wakes(void);
void heki_shim_block_cpus(void);
void heki_shim_unblock_cpus(void);
bool heki_shim_stop_efi(void);
bool heki_shim_is_trap_page(u64 addr);
size_t heki_shim_tables(struct heki_area *areas, size_t max);
void heki_shim_untrace_self(void);
void heki_shim_install_hooks(void);
void heki_shim_remove_hooks(void);
void heki_shim_refused(u64 addr, size_t nr, const char *why);
void heki_shim_frozen(u64 addr);
void heki_shim_refused_use(const char *what, const char *why);
int heki_shim_show(void);
ssize_t heki_shim_read_kernel(int fd, void **image, size_t max);
void heki_shim_free_kernel(void *image);
int heki_shim_start_kernel(void);

/* ffi.rs */
int heki_guest_load(const char *require, const char *bpf);
bool heki_guest_poke_batch(const struct smp_text_poke_loc *vec, unsigned int nr);
int heki_guest_poke(void *addr, const void *src, size_t len, bool set);
int heki_guest_may_probe(const void *addr, bool jump);
int heki_guest_may_load(void);
int heki_guest_make_rw(void *ptr, size_t size);
int heki_guest_make_rox(void *ptr, size_t size);
bool heki_guest_is_sealed(void);
bool heki_guest_held(size_t at, const char **why, size_t *len);
size_t heki_guest_nr_ranges(void);
int heki_guest_kexec(int step, int fd, unsigned long flags);
void heki_guest_start_kernel(void);
int heki_guest_judge(const struct heki_fault *fault, struct heki_denial *denial);

#endif /* _HEKI_GUEST_SHIM_H */
