/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Text that a hypervisor holds: the few places where a kernel changes its text,
 * turns pages of text writable and back, or goes over to another kernel, ask here
 * first.
 *
 * Each hook is a static call that returns 0 until a module installs its own.
 * Without CONFIG_GUEST_TEXT all of them are constants.
 *
 * Neighbours: virt/heki/text_hooks.c defines and installs the calls.
 * Locks: named at each hook; all but guest_text_poke() may sleep.
 */
#ifndef _LINUX_GUEST_TEXT_H
#define _LINUX_GUEST_TEXT_H

#include <linux/static_call.h>
#include <linux/types.h>

struct smp_text_poke_loc;

/* Steps of kexec. */
enum guest_kexec {
	GUEST_KEXEC_LOAD,	/* kexec_load() */
	GUEST_KEXEC_FILE,	/* kexec_file_load() */
	GUEST_KEXEC_LOADED,	/* is a kernel loaded? */
	GUEST_KEXEC_START,
};

#ifdef CONFIG_GUEST_TEXT

/**
 * struct guest_text_ops - what a module installs
 * @poke_batch:	changes instructions; true if it did, or refused, so that the
 *		kernel must not. text_mutex is held.
 * @poke:	changes bytes, @set: sets all to one; 1 if it did, -errno if it
 *		refused, 0 to leave it to the kernel. text_mutex is held, except
 *		in kgdb, where all other CPUs are stopped.
 * @may_probe:	-errno if no breakpoint, or with @jump no jump of an optimized
 *		kprobe, may be put there. text_mutex is held.
 * @may_load:	-errno if no module may come or go
 * @make_rw:	before pages of text become writable; on -errno they stay text
 * @make_rox:	after pages became read-only; on -errno they do not run
 * @kexec:	a step of kexec, with the kernel's file and the flags of FILE; 1 if it
 *		is done or so, -errno if it is refused, 0 to leave it to the kernel
 */
struct guest_text_ops {
	bool (*poke_batch)(const struct smp_text_poke_loc *vec, unsigned int nr);
	int (*poke)(void *addr, const void *src, size_t len, bool set);
	int (*may_probe)(const void *addr, bool jump);
	int (*may_load)(void);
	int (*make_rw)(void *ptr, size_t size);
	int (*make_rox)(void *ptr, size_t size);
	int (*kexec)(enum guest_kexec step, int fd, unsigned long flags);
};

#define GUEST_TEXT_CALL(name)	(*((struct guest_text_ops *)NULL)->name)

DECLARE_STATIC_CALL(guest_text_poke_batch, GUEST_TEXT_CALL(poke_batch));
DECLARE_STATIC_CALL(guest_text_poke, GUEST_TEXT_CALL(poke));
DECLARE_STATIC_CALL(guest_text_may_probe, GUEST_TEXT_CALL(may_probe));
DECLARE_STATIC_CALL(guest_text_may_load, GUEST_TEXT_CALL(may_load));
DECLARE_STATIC_CALL(guest_text_make_rw, GUEST_TEXT_CALL(make_rw));
DECLARE_STATIC_CALL(guest_text_make_rox, GUEST_TEXT_CALL(make_rox));
DECLARE_STATIC_CALL(guest_text_kexec, GUEST_TEXT_CALL(kexec));

static inline bool guest_text_poke_batch(const struct smp_text_poke_loc *vec,
					 unsigned int nr)
{
	return static_call(guest_text_poke_batch)(vec, nr);
}

static inline int guest_text_poke(void *addr, const void *src, size_t len, bool set)
{
	return static_call(guest_text_poke)(addr, src, len, set);
}

static inline int guest_text_may_probe(const void *addr, bool jump)
{
	return static_call(guest_text_may_probe)(addr, jump);
}

static inline int guest_text_may_load(void)
{
	return static_call(guest_text_may_load)();
}

static inline int guest_text_make_rw(void *ptr, size_t size)
{
	return static_call(guest_text_make_rw)(ptr, size);
}

static inline int guest_text_make_rox(void *ptr, size_t size)
{
	return static_call(guest_text_make_rox)(ptr, size);
}

static inline int guest_text_kexec(enum guest_kexec step, int fd, unsigned long flags)
{
	return static_call(guest_text_kexec)(step, fd, flags);
}

#else

static inline bool guest_text_poke_batch(const struct smp_text_poke_loc *vec,
					 unsigned int nr)
{
	return false;
}

static inline int guest_text_poke(void *addr, const void *src, size_t len, bool set)
{
	return 0;
}

static inline int guest_text_may_probe(const void *addr, bool jump)
{
	return 0;
}

static inline int guest_text_may_load(void)
{
	return 0;
}

static inline int guest_text_make_rw(void *ptr, size_t size)
{
	return 0;
}

static inline int guest_text_make_rox(void *ptr, size_t size)
{
	return 0;
}

static inline int guest_text_kexec(enum guest_kexec step, int fd, unsigned long flags)
{
	return 0;
}

#endif /* CONFIG_GUEST_TEXT */

#endif /* _LINUX_GUEST_TEXT_H */
