/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Text that a hypervisor holds: the few places where a kernel changes its text,
 * turns pages of text writable and back, or goes over to another kernel, ask here
 * first.
 *
 * A module installs its own hooks by one static call, which says where they are;
 * until then each returns 0. Without CONFIG_GUEST_TEXT all of them are constants.
 *
 * Neighbours: virt/heki/text_hooks.c defines and installs the call.
 * Locks: named at each hook; all but guest_text_poke() may sleep.
 */
#ifndef _LINUX_GUEST_TEXT_H
#define _LINUX_GUEST_TEXT_H

#include <linux/types.h>

struct smp_text_poke_loc;

/* Steps of kexec. */
enum guest_kexec {
	GUEST_KEXEC_LOAD,	/* kexec_load() */
	GUEST_KEXEC_FILE,	/* kexec_file_load() */
	GUEST_KEXEC_LOADED,	/* is a kernel loaded? */
	GUEST_KEXEC_START,
	GUEST_KEXEC_CRASH,	/* a kernel that was loaded for a crash, at one; does not sleep */
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

/* Those of the module, NULL as long as there is none. */
const struct guest_text_ops *guest_text_ops(void);

#define GUEST_TEXT_CALL(name, ...)					\
({									\
	const struct guest_text_ops *__ops = guest_text_ops();		\
									\
	__ops ? __ops->name(__VA_ARGS__) : 0;				\
})

static inline bool guest_text_poke_batch(const struct smp_text_poke_loc *vec,
					 unsigned int nr)
{
	return GUEST_TEXT_CALL(poke_batch, vec, nr);
}

static inline int guest_text_poke(void *addr, const void *src, size_t len, bool set)
{
	return GUEST_TEXT_CALL(poke, addr, src, len, set);
}

static inline int guest_text_may_probe(const void *addr, bool jump)
{
	return GUEST_TEXT_CALL(may_probe, addr, jump);
}

static inline int guest_text_may_load(void)
{
	return GUEST_TEXT_CALL(may_load);
}

static inline int guest_text_make_rw(void *ptr, size_t size)
{
	return GUEST_TEXT_CALL(make_rw, ptr, size);
}

static inline int guest_text_make_rox(void *ptr, size_t size)
{
	return GUEST_TEXT_CALL(make_rox, ptr, size);
}

static inline int guest_text_kexec(enum guest_kexec step, int fd, unsigned long flags)
{
	return GUEST_TEXT_CALL(kexec, step, fd, flags);
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
