// SPDX-License-Identifier: GPL-2.0
/*
 * Random calls: hypercalls of the guest, and attributes of the device by the VMM.
 *
 *	heki_random_test [-n CALLS] [-s SEED]
 *
 * Most calls are good ones that were spoilt a little, so that they get past the first
 * checks. A VM takes batches of them; then the next VM takes up its saved state. Each
 * answer must be a documented one and, where the arguments alone decide, the right one.
 * After each batch the state, the ranges, what can be written and what a sealed page
 * holds must agree. In the end every operation must have succeeded and been refused.
 */
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "kselftest.h"
#include "heki.h"

#define NR_CALLS		10000	/* by default */
#define BATCH_CALLS		16
#define LIFE_BATCHES		120	/* a VM takes so many at most */
#define RESTORES		60	/* spoilt states that a new VM is given */
#define GROWTH_MAX_KB		256

/* Pages of the test memory: a little kernel with one jump label, and pages to seal. */
#define TEXT			0
#define TABLE			1
#define KEYS			2
#define POOL			3
#define FRESH			4	/* to grant and to release */
#define NR_FRESH		4
#define OTHER			8
#define NR_PAGES		24	/* what is watched */

#define LABEL			0x100	/* where the text has its label, and to where it jumps */
#define TARGET			0x180
#define KEY_FROZEN		0x40
#define LSTAR			0xffffffff81234000ull

/* A second slot behind that of the requests. */
#define NEXT_SLOT		12
#define NEXT_GPA		(HEKI_REQUEST_GPA + HEKI_REQUEST_PAGES * PAGE_SIZE)
#define WINDOW_PAGES		3	/* of each block, which may begin anywhere in the first */
#define BLOCK_BYTES		4096

#define ALL_OPS			(1 << HEKI_OP_SEAL | 1 << HEKI_OP_PATCH | \
				 1 << HEKI_OP_GRANT | 1 << HEKI_OP_RELEASE | \
				 1 << HEKI_OP_KEXEC)
#define NR_OPS			(HEKI_OP_KEXEC + 1)
#define NR_ATTRS		(KVM_DEV_HEKI_PIN + 1)

enum check {
	ANSWERS,
	AGREE,
	SEALED,
	SAVED,
	ALIVE,
	REACHED,
	MEMORY,
	NR_CHECKS,
};

static const char * const checks[] = {
	[ANSWERS] = "every answer is a documented one",
	[AGREE] = "state, ranges and what is held agree",
	[SEALED] = "sealed memory stays as it is, other memory can be written",
	[SAVED] = "a saved state goes on in another VM",
	[ALIVE] = "the VM runs on",
	[REACHED] = "every operation succeeded and was refused",
	[MEMORY] = "the host's kernel does not grow",
};

struct count {
	u64 good;
	u64 bad;
};

static const char * const op_names[] = {
	"QUERY", "SEAL", "PATCH", "GRANT", "RELEASE", "FROZEN", "QUERY_PIN", "KEXEC",
	"unknown",
};

static const char * const attr_names[] = {
	"RESET", "PROFILE", "CAPS", "POLICY", "RESUME", "STATE", "RANGES", "PIN",
	"unknown",
};

enum verb { SET, GET, HAS };

static struct count ops[NR_OPS + 1], attrs[2][NR_ATTRS + 1];
static u64 nr_calls, max_calls = NR_CALLS, seed = 1, nr_vms, nr_deaths;
static int failures[NR_CHECKS];
static bool has_exec, has_dt;

/* A page without access lies behind it. Not in the image: that is in the guest, too. */
#define ARENA_BYTES		(1 << 20)
static u8 *arena, *saved_state, *spoilt_state;

static __attribute__((format(printf, 2, 3))) void complain(enum check check, const char *fmt, ...)
{
	char text[256];
	va_list args;

	if (failures[check]++ >= 5)
		return;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	ksft_print_msg("seed %ld, call %ld: %s\n", (long)seed, (long)nr_calls, text);
}

/*
 * Random numbers (xorshift64*)
 */

static u64 random_state;

static u64 any(void)
{
	random_state ^= random_state >> 12;
	random_state ^= random_state << 25;
	random_state ^= random_state >> 27;
	return random_state * 0x2545f4914f6cdd1dull;
}

static u64 below(u64 n)
{
	return (any() >> 16) % n;
}

static bool one_in(u64 n)
{
	return !below(n);
}

/* What tends to be the edge of something. */
static u64 odd_value(void)
{
	static const u64 values[] = {
		0, 1, 2, 3, 7, 8, 62, 63, 64, 255, 256, 257, 511, 512, 513, 4095, 4096, 4097,
		HEKI_MAX_AREAS, HEKI_MAX_SITES + 1, HEKI_MAX_REQUEST_BYTES,
		HEKI_MAX_REQUEST_BYTES + 1, HEKI_MAX_STATE_BYTES + 1, HEKI_MAX_SCAN_BYTES,
		HEKI_TEST_GPA, HEKI_PAGE(HEKI_TEST_PAGES), HEKI_HOLE_GPA, NEXT_GPA,
		BIT(31), BIT(32) - 1, BIT(32), BIT(51), BIT(52), BIT(63), BIT(63) - 1,
		-1ull, -2ull, -8ull, -4096ull, -4097ull,
	};

	if (one_in(8))
		return any() >> below(64);
	return values[below(ARRAY_SIZE(values))];
}

/* Changes a few fields of a block, most of them near its begin. */
static void spoil(u8 *block, u64 len)
{
	int i, nr = 1 + below(3);

	for (i = 0; i < nr && len >= 8; i++) {
		u64 room = one_in(2) ? min_t(u64, len, 32) : len;
		u64 at = below(room / 4) * 4;
		u64 value = odd_value();

		switch (below(6)) {
		case 0:
			block[below(len)] ^= 1 << below(8);
			break;
		case 1:
			block[below(len)] = any();
			break;
		case 2:
			memcpy(block + at, &value, 4);
			break;
		case 3:
			memcpy(block + at / 8 * 8, &value, 8);
			break;
		case 4:
			*(u32 *)(block + at) += one_in(2) ? 1 : -1;
			break;
		case 5:
			at = at / 8 * 8;
			memmove(block + at, block + below(len / 8) * 8, 8);
			break;
		}
	}
}

static void scramble(u8 *block, u64 len)
{
	u64 i;

	for (i = 0; i < len; i++)
		block[i] = any();
}

/*
 * A VM
 */

struct call {
	u64 arg[HEKI_NR_ARGS];
	s64 ret;
};

/* The guest's copy is the one in use. */
static struct batch {
	u64 nr;
	u64 done;
	struct call call[BATCH_CALLS];
} batch __aligned(2048);

struct life {
	struct heki_vm h;
	bool sealed;		/* as far as the answers tell */
	bool profile;
	bool dead;
	bool in_batch;		/* the VMM may do as it likes at an exit */
	struct heki_policy policy;
	/* Of the batch. */
	bool good[BATCH_CALLS];		/* nothing was spoilt */
	u32 answer[BATCH_CALLS];	/* what the VMM said, if it was asked */
	bool asked[BATCH_CALLS];
	bool reset[BATCH_CALLS];	/* at an exit of this call */
	bool lost[BATCH_CALLS];		/* before the call was answered */
	u8 before[NR_PAGES * PAGE_SIZE];
	struct heki_range ranges[HEKI_MAX_RANGES];
	u32 nr_ranges;
};

static struct batch *batch_of(struct life *l)
{
	return addr_gva2hva(l->h.vm, (gva_t)&batch);
}

static u64 guest_batch(u64 *arg)
{
	struct call *call;
	u64 i;

	for (i = 0; i < READ_ONCE(batch.nr); i++) {
		WRITE_ONCE(batch.done, i);
		call = &batch.call[i];
		WRITE_ONCE(call->ret, guest_hypercall(call->arg));
	}
	return 0;
}

static int attr(struct life *l, enum verb verb, u32 group, u64 attr, u32 flags, u64 addr)
{
	static const unsigned long ioctls[] = {
		[SET] = KVM_SET_DEVICE_ATTR, [GET] = KVM_GET_DEVICE_ATTR, [HAS] = KVM_HAS_DEVICE_ATTR,
	};
	struct kvm_device_attr a = {
		.group = group, .attr = attr, .flags = flags, .addr = addr,
	};

	return ioctl(l->h.device, ioctls[verb], &a) ? errno : 0;
}

static void note_reset(struct life *l)
{
	l->sealed = false;
	l->nr_ranges = 0;
	if (l->in_batch)
		l->reset[batch_of(l)->done] = true;
}

static void reset(struct life *l)
{
	int ret = attr(l, SET, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_RESET, 0, 0);

	if (ret)
		complain(ANSWERS, "RESET gave %d", ret);
	note_reset(l);
}

static void throw_at_device(struct life *l);

static u32 answer_to_request(void)
{
	static const u32 answers[] = {
		KVM_EPERM, KVM_E2BIG, KVM_EINVAL, KVM_EOPNOTSUPP, KVM_ENOSYS, -KVM_EINVAL, BIT(31),
	};

	return one_in(3) ? answers[below(ARRAY_SIZE(answers))] : 0;
}

static void at_request(struct life *l, struct heki_exit *exit)
{
	u64 i = batch_of(l)->done;
	bool was_reset = l->reset[i];

	if (!l->in_batch || exit->op != batch_of(l)->call[i].arg[0])
		complain(ANSWERS, "the VMM is asked about %u", exit->op);
	exit->answer = answer_to_request();
	l->answer[i] = exit->answer;
	l->asked[i] = true;
	if (one_in(8))
		throw_at_device(l);
	l->lost[i] |= l->reset[i] && !was_reset;
}

static bool is_own_text_executable(struct life *l);

/* Runs the vCPU until it stops for the test. False if it never will. */
static bool run(struct life *l)
{
	struct kvm_vcpu *vcpu = l->h.vcpu[0];
	struct heki_exit *exit = (void *)vcpu->run->padding;
	int i, ret;

	for (i = 0; i < 1000; i++) {
		vcpu_run(vcpu);
		if (vcpu->run->exit_reason == KVM_EXIT_IO)
			return true;
		if (vcpu->run->exit_reason != KVM_EXIT_HEKI)
			break;
		if (exit->kind == HEKI_EXIT_REQUEST) {
			at_request(l, exit);
			continue;
		}
		if (l->in_batch && one_in(8)) {
			throw_at_device(l);
			continue;
		}
		ret = attr(l, SET, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_RESUME, 0, 0);
		if (ret)
			complain(ANSWERS, "RESUME gave %d", ret);
	}

	if (is_own_text_executable(l))
		complain(ALIVE, "exit %u (%s)", vcpu->run->exit_reason,
			 exit_reason_str(vcpu->run->exit_reason));
	l->dead = true;
	nr_deaths++;
	return false;
}

/* What heki_call() does, with exits on the way. Zero if the VM is dead. */
static u64 call(struct life *l, u64 (*fn)(u64 *), u64 arg0, u64 arg1, u64 arg2, u64 arg3)
{
	if (l->dead)
		return 0;
	heki_prepare_call(l->h.vcpu[0], fn, (u64[HEKI_NR_ARGS]){ arg0, arg1, arg2, arg3 });
	return run(l) ? heki_finish_call(l->h.vcpu[0]) : 0;
}

/*
 * The little kernel, and good blocks
 */

static void put_label(struct heki_vm *h)
{
	struct {
		s32 code;
		s32 target;
		s64 key;
	} *entry = heki_hva(h, HEKI_PAGE(TABLE));

	entry->code = (s64)(HEKI_PAGE(TEXT) + LABEL - HEKI_PAGE(TABLE));
	entry->target = (s64)(HEKI_PAGE(TEXT) + TARGET - (HEKI_PAGE(TABLE) + 4));
	entry->key = HEKI_PAGE(KEYS) - (HEKI_PAGE(TABLE) + 8);
}

static const u8 nop[] = { 0x0f, 0x1f, 0x44, 0x00, 0x00 };
static const u8 jump[] = { 0xe9, TARGET - LABEL - 5, 0x00, 0x00, 0x00 };

static void put_kernel(struct heki_vm *h)
{
	memset(heki_hva(h, HEKI_PAGE(TEXT)), 0x90, PAGE_SIZE);
	memcpy(heki_hva(h, HEKI_PAGE(TEXT) + LABEL), nop, sizeof(nop));
	put_label(h);
	memset(heki_hva(h, HEKI_PAGE(POOL)), 0xcc, PAGE_SIZE);
}

static struct heki_range *add_range_at(struct heki_seal *req, u64 nr, u32 rights, u32 kind)
{
	heki_add_range(req, HEKI_PAGE(nr), PAGE_SIZE, rights, kind);
	heki_ranges(req)[req->nr_ranges - 1].va = HEKI_PAGE(nr);
	return &heki_ranges(req)[req->nr_ranges - 1];
}

/* As heki_add_text(), in as few ranges as there are pieces. */
static void add_own_text(struct heki_vm *h, struct heki_seal *req)
{
	extern char __executable_start[], etext[];
	gva_t gva = (gva_t)__executable_start & PAGE_MASK;

	for (; gva < (gva_t)etext; gva += PAGE_SIZE) {
		struct heki_range *last = heki_ranges(req) + req->nr_ranges - 1;
		u64 gpa = addr_gva2gpa(h->vm, gva);

		if (req->nr_ranges && last->gpa + last->len == gpa)
			last->len += PAGE_SIZE;
		else
			heki_add_range(req, gpa, PAGE_SIZE, HEKI_EXEC, HEKI_KIND_TEXT);
	}
}

static void add_other_pages(struct heki_seal *req)
{
	int i;

	for (i = OTHER; i < NR_PAGES; i++) {
		if (!one_in(4))
			continue;
		if (one_in(2))
			add_range_at(req, i, one_in(4) ? HEKI_WRITE : 0, HEKI_KIND_OTHER);
		else
			heki_add_range(req, HEKI_PAGE(i), PAGE_SIZE, 0, below(HEKI_KIND_FTRACE));
	}
}

static u64 seal_block(struct life *l, void *block)
{
	struct heki_seal *req = block;

	*req = (struct heki_seal){ .version = HEKI_ABI_VERSION };
	if (has_exec && one_in(4)) {
		req->flags = HEKI_SEAL_EXEC;
		add_own_text(&l->h, req);
	}
	add_range_at(req, TEXT, HEKI_EXEC, HEKI_KIND_TEXT);
	add_range_at(req, TABLE, 0, HEKI_KIND_RODATA);
	if (one_in(2))
		add_range_at(req, POOL, HEKI_EXEC, HEKI_KIND_POOL);
	add_other_pages(req);

	if (req->flags || one_in(4))
		heki_add_pin(req, HEKI_REG_CR4, X86_CR4_SMEP);
	if (one_in(2))
		heki_add_pin(req, HEKI_REG_CR0, X86_CR0_WP);
	if (one_in(2))
		heki_add_msr(req, MSR_LSTAR, ~0ull >> below(32));
	if (has_dt && one_in(4))
		heki_add_tables(req, HEKI_REG_IDTR);

	heki_areas(req)[req->nr_areas++] = (struct heki_area){
		.kind = HEKI_AREA_JUMP_TABLE, .va = HEKI_PAGE(TABLE), .len = 16,
	};
	if (one_in(4))
		heki_areas(req)[req->nr_areas++] = (struct heki_area){ .kind = HEKI_AREA_ENDBR };
	return heki_request_len(req);
}

static u64 patch_block(struct life *l, void *block)
{
	struct {
		struct heki_patch head;
		struct heki_site site;
	} *req = block;
	const u8 *old = heki_hva(&l->h, HEKI_PAGE(TEXT) + LABEL);

	memset(req, 0, sizeof(*req));
	req->head = (struct heki_patch){ .version = HEKI_ABI_VERSION, .nr_sites = 1 };
	req->site.va = HEKI_PAGE(TEXT) + LABEL;
	req->site.len = sizeof(nop);
	memcpy(req->site.old, old, sizeof(nop));
	memcpy(req->site.new, *old == nop[0] ? jump : nop, sizeof(nop));
	return sizeof(*req);
}

static u64 grant_block(struct life *l, void *block, bool grant)
{
	struct {
		struct heki_grant head;
		struct heki_range range;
	} *req = block;
	u64 first = below(NR_FRESH), nr = 1 + below(NR_FRESH - first);

	memset(req, 0, sizeof(*req));
	req->head = (struct heki_grant){ .version = HEKI_ABI_VERSION, .nr_ranges = 1 };
	req->range = (struct heki_range){
		.gpa = HEKI_PAGE(FRESH + first),
		.len = nr * PAGE_SIZE,
		.va = HEKI_PAGE(FRESH + first),
		.rights = grant ? HEKI_EXEC : 0,
		.kind = HEKI_KIND_POOL,
	};
	if (grant)
		memset(heki_hva(&l->h, req->range.gpa), 0xcc, req->range.len);
	return sizeof(*req);
}

static u64 pin_block(void *block)
{
	static const u32 msrs[] = { MSR_LSTAR, MSR_STAR, MSR_EFER, MSR_IA32_TSC, MSR_GS_BASE };
	static const u32 regs[] = {
		HEKI_REG_CR0, HEKI_REG_CR4, HEKI_REG_XCR0, HEKI_REG_MSR, HEKI_REG_IDTR, HEKI_REG_TR,
	};
	struct heki_pin *pin = block;

	*pin = (struct heki_pin){ .reg = regs[below(ARRAY_SIZE(regs))] };
	if (pin->reg == HEKI_REG_MSR)
		pin->index = msrs[below(ARRAY_SIZE(msrs))];
	return sizeof(*pin);
}

static u64 good_block(struct life *l, u64 op, void *block)
{
	switch (op) {
	case HEKI_OP_SEAL:
		return seal_block(l, block);
	case HEKI_OP_PATCH:
		return patch_block(l, block);
	case HEKI_OP_GRANT:
	case HEKI_OP_RELEASE:
		return grant_block(l, block, op == HEKI_OP_GRANT);
	case HEKI_OP_QUERY_PIN:
		return pin_block(block);
	case HEKI_OP_KEXEC:
		*(struct heki_kexec *)block = (struct heki_kexec){
			.version = HEKI_ABI_VERSION,
			.flags = HEKI_KEXEC_FIRST | HEKI_KEXEC_LAST,
			.gpa = HEKI_PAGE(below(NR_PAGES)),
			.len = 1 + below(PAGE_SIZE),
		};
		return sizeof(struct heki_kexec);
	case HEKI_OP_FROZEN:
		memset(block, 0, sizeof(struct heki_frozen));
		((struct heki_frozen *)block)->version = HEKI_ABI_VERSION;
		((struct heki_frozen *)block)->first = one_in(2) ? 0 : below(4);
		return sizeof(struct heki_frozen);
	default:
		return sizeof(struct heki_query);
	}
}

/*
 * Hypercalls
 */

/* The test's own memory: who seals or overwrites it can do nothing more. */
static bool is_own(u64 gpa)
{
	return gpa < HEKI_REQUEST_GPA;
}

/*
 * Sealed, the memory of the test's code, stack and page tables or of its requests would
 * end the test, as would an allow-list without that code. All else is as the dice say.
 */
static void spare_own_memory(struct heki_seal *req, const struct heki_seal *good)
{
	u64 i, nr = min_t(u64, req->nr_ranges, (BLOCK_BYTES - sizeof(*req)) / sizeof(struct heki_range));

	if (good->flags & HEKI_SEAL_EXEC) {
		for (i = 0; i < good->nr_ranges && heki_ranges((void *)good)[i].gpa < HEKI_REQUEST_GPA; i++)
			heki_ranges(req)[i] = heki_ranges((void *)good)[i];
	} else {
		if (has_exec)
			req->flags &= ~HEKI_SEAL_EXEC;
		i = 0;
	}
	for (; i < nr; i++) {
		if (heki_ranges(req)[i].gpa < HEKI_TEST_GPA)
			heki_ranges(req)[i].gpa += HEKI_TEST_GPA;
	}
}

static void put_block(struct heki_vm *h, u64 gpa, const u8 *block, u64 len)
{
	u64 i;

	for (i = 0; i < len && gpa + i < NEXT_GPA + PAGE_SIZE; i++)
		*(u8 *)heki_hva(h, gpa + i) = block[i];
}

/* Spoils the arguments of a call. */
static void spoil_call(struct call *call)
{
	switch (below(6)) {
	case 0:
		call->arg[2] += (s64[]){ -48, -32, -16, -8, -1, 1, 8, 16, 32, 48 }[below(10)];
		break;
	case 1:
		call->arg[2] = odd_value();
		break;
	case 2:
		call->arg[1] = odd_value();
		break;
	case 3:
		call->arg[1] = HEKI_PAGE(below(NR_PAGES)) + below(PAGE_SIZE);
		break;
	case 4:
		call->arg[0] = one_in(2) ? odd_value() : below(NR_OPS);
		break;
	case 5:
		call->arg[3] = odd_value();
		break;
	}
}

static void make_call(struct life *l, int i)
{
	struct call *call = &batch_of(l)->call[i];
	u64 gpa = HEKI_REQUEST_GPA + i * WINDOW_PAGES * PAGE_SIZE + below(PAGE_SIZE);
	u8 block[BLOCK_BYTES] = {}, good[BLOCK_BYTES];
	u64 op = below(NR_OPS), len = good_block(l, op, block);

	TEST_ASSERT(len <= BLOCK_BYTES, "A block of %lu bytes", len);
	/* Over the border of two slots, or over the end of the last. */
	if (!i && one_in(2))
		gpa = (one_in(2) ? NEXT_GPA : NEXT_GPA + PAGE_SIZE) - 1 - below(len);
	*call = (struct call){ .arg = { op, gpa, len } };

	memcpy(good, block, sizeof(good));
	l->good[i] = one_in(2) && gpa + len <= NEXT_GPA + PAGE_SIZE;
	if (!l->good[i]) {
		if (one_in(4))
			spoil_call(call);
		else if (one_in(16))
			scramble(block, len);
		else
			spoil(block, len);
	}
	if (op == HEKI_OP_SEAL)
		spare_own_memory((void *)block, (void *)good);
	if (is_own(call->arg[1]))
		call->arg[1] += HEKI_TEST_GPA;
	put_block(&l->h, gpa, block, len);
}

/* Whether all of it lies in memslots that lie side by side. */
static bool is_memory(u64 gpa, u64 len)
{
	static const struct {
		u64 start, end;
	} memory[] = {
		{ HEKI_REQUEST_GPA, NEXT_GPA + PAGE_SIZE },
		{ HEKI_TEST_GPA, HEKI_PAGE(HEKI_TEST_PAGES) },
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(memory); i++) {
		if (gpa >= memory[i].start && gpa < memory[i].end && len <= memory[i].end - gpa)
			return true;
	}
	return !len;
}

#define ANYTHING	1

/* The only right answer, as far as arguments, state and policy tell. */
static s64 predict(struct life *l, const struct call *call, bool sealed)
{
	u64 op = call->arg[0], gpa = call->arg[1], len = call->arg[2];

	if (call->arg[3])
		return -KVM_EINVAL;
	switch (op) {
	case HEKI_OP_QUERY:
		if (len < sizeof(struct heki_query))
			return -KVM_EINVAL;
		return is_memory(gpa, sizeof(struct heki_query)) ? ANYTHING : -KVM_EFAULT;
	case HEKI_OP_QUERY_PIN:
		if (len != sizeof(struct heki_pin))
			return -KVM_EINVAL;
		return is_memory(gpa, len) ? ANYTHING : -KVM_EFAULT;
	case HEKI_OP_FROZEN:
		if (len != sizeof(struct heki_frozen))
			return -KVM_EINVAL;
		return is_memory(gpa, 8) ? ANYTHING : -KVM_EFAULT;
	case HEKI_OP_SEAL:
	case HEKI_OP_PATCH:
	case HEKI_OP_GRANT:
	case HEKI_OP_RELEASE:
	case HEKI_OP_KEXEC:
		if (sealed == (op == HEKI_OP_SEAL))
			return -KVM_EPERM;
		if (op == HEKI_OP_KEXEC && !(l->policy.consent & BIT(op)))
			return -KVM_EOPNOTSUPP;
		if (len > HEKI_MAX_REQUEST_BYTES)
			return -KVM_E2BIG;
		return is_memory(gpa, len) ? ANYTHING : -KVM_EFAULT;
	default:
		return -KVM_ENOSYS;
	}
}

/* Errors that heki-abi.rst lists for an operation. */
static bool is_documented(u64 op, s64 ret)
{
	switch (ret) {
	case 0:
	case -KVM_EINVAL:
	case -KVM_EFAULT:
		return true;
	case -KVM_EPERM:
		return op != HEKI_OP_QUERY && op != HEKI_OP_QUERY_PIN;
	case -KVM_E2BIG:
		return ALL_OPS & BIT(op);
	case -KVM_EOPNOTSUPP:
		return op == HEKI_OP_SEAL;
	default:
		return false;
	}
}

/* What the VMM's answer makes of a request, ANYTHING if it allows it. */
static s64 consented(u32 answer)
{
	switch (answer) {
	case 0:
		return ANYTHING;
	case KVM_E2BIG:
	case KVM_EINVAL:
	case KVM_EOPNOTSUPP:
		return -(s64)answer;
	default:
		return -KVM_EPERM;
	}
}

/* Nothing that the VMM decided is in the way of a good SEAL. */
static bool may_seal(struct life *l)
{
	return l->policy.allowed == HEKI_PROT_ALL && !(l->policy.consent & BIT(HEKI_OP_SEAL));
}

/* @clean: the little kernel is as put_kernel() left it. */
static void check_call(struct life *l, int i, bool sealed, bool clean)
{
	const struct call *call = &batch_of(l)->call[i];
	s64 ret = call->ret, right = predict(l, call, sealed);
	u64 op = min_t(u64, call->arg[0], NR_OPS);

	nr_calls++;
	if (ret)
		ops[op].bad++;
	else
		ops[op].good++;

	if (right == ANYTHING && l->asked[i])
		right = l->lost[i] ? -KVM_EPERM : consented(l->answer[i]);
	if (right == ANYTHING && l->good[i] && op == HEKI_OP_SEAL && clean && may_seal(l))
		right = 0;
	if (right == ANYTHING ? is_documented(op, ret) : ret == right)
		return;
	complain(ANSWERS, "%s(%#lx, %#lx, %#lx) of %s VM gave %ld, not %ld", op_names[op],
		 (long)call->arg[1], (long)call->arg[2], (long)call->arg[3],
		 sealed ? "a sealed" : "an open", (long)ret, (long)right);
}

/*
 * The device
 */

static struct heki_policy random_policy(void)
{
	struct heki_policy policy = {
		.version = HEKI_ABI_VERSION,
		.allowed = HEKI_PROT_ALL,
		.consent = any() & ALL_OPS & any(),
		/* What learns is not held; heki_learn_test sees to that. */
		.write = below(HEKI_ACTION_LEARN),
		.exec = below(HEKI_ACTION_LEARN),
		.reg = below(HEKI_ACTION_LEARN),
		.patch = below(HEKI_ACTION_LEARN),
	};

	if (one_in(4))
		policy.allowed = HEKI_PROT_WRITE | HEKI_PROT_CR;
	return policy;
}

struct profile {
	struct heki_profile head;
	u32 entry[4];
};

static struct profile good_profile(void)
{
	return (struct profile){
		.head = {
			.version = HEKI_ABI_VERSION,
			.nr_functions = 1,
			.nr_calls = 1,
			.nr_frozen = 1,
			.nr_probes = 1,
			.base = HEKI_PAGE(TEXT),
			.text_len = PAGE_SIZE,
		},
		.entry = { 0, 0x40, HEKI_PAGE(KEYS) + KEY_FROZEN - HEKI_PAGE(TEXT), 0x80 },
	};
}

/* A copy of something in the arena, most of the time where all of it can be read. */
static u64 in_arena(const void *data, u64 len, u64 room)
{
	static const u64 bad[] = { 0, 8, BIT(63), -8ull, 0xffff888000000000ull };
	u64 at = below(ARENA_BYTES / 2);

	memset(arena + at, 0xa5, room);
	memcpy(arena + at, data, len);
	if (one_in(8))
		return bad[below(ARRAY_SIZE(bad))];
	if (one_in(8))		/* the last part is missing */
		return (u64)arena + ARENA_BYTES - below(len + 1);
	return (u64)arena + at;
}

static u64 argument(u64 attr)
{
	struct heki_buffer buffer = { (u64)arena + ARENA_BYTES / 2 + below(64), odd_value() };
	struct heki_ranges ranges = { .nr = one_in(2) ? below(32) : odd_value() };
	struct heki_pin pin = { .reg = below(32), .index = odd_value() };
	struct heki_policy policy = random_policy();
	struct profile profile = good_profile();

	switch (attr) {
	case KVM_DEV_HEKI_PROFILE:
		if (!one_in(3))
			spoil((u8 *)&profile, sizeof(profile));
		return in_arena(&profile, sizeof(profile), sizeof(profile));
	case KVM_DEV_HEKI_POLICY:
		if (!one_in(3))
			spoil((u8 *)&policy, sizeof(policy));
		return in_arena(&policy, sizeof(policy), sizeof(policy));
	case KVM_DEV_HEKI_STATE:
		if (one_in(8))
			buffer.data = odd_value();
		if (one_in(2))
			buffer.len = below(16384);
		return in_arena(&buffer, sizeof(buffer), sizeof(buffer));
	case KVM_DEV_HEKI_RANGES:
		ranges.state = one_in(8);
		return in_arena(&ranges, sizeof(ranges), 32 * sizeof(struct heki_range));
	case KVM_DEV_HEKI_PIN:
		return in_arena(&pin, sizeof(pin), sizeof(pin));
	case KVM_DEV_HEKI_CAPS:
		return in_arena(&policy, sizeof(struct heki_caps), sizeof(struct heki_caps));
	default:
		return one_in(4) ? odd_value() : 0;
	}
}

/* What can be set and got, of the attributes in their order. */
static const bool has_verb[2][NR_ATTRS] = {
	[SET] = { true, true, false, true, true, true, false, false },
	[GET] = { false, false, true, true, false, true, true, true },
};

static bool is_documented_errno(enum verb verb, u64 attr, int ret)
{
	switch (ret) {
	case 0:
	case EFAULT:
		return true;
	case EINVAL:
		return verb == SET || attr == KVM_DEV_HEKI_RANGES;
	case EBUSY:
		return verb == SET || attr == KVM_DEV_HEKI_STATE;
	case ENXIO:
		if (attr == KVM_DEV_HEKI_PIN)
			return verb == GET;
		fallthrough;
	case EPERM:
	case EOPNOTSUPP:
		return verb == SET && attr == KVM_DEV_HEKI_STATE;
	case E2BIG:
		return attr == KVM_DEV_HEKI_PROFILE || attr == KVM_DEV_HEKI_STATE ||
		       attr == KVM_DEV_HEKI_RANGES;
	default:
		return false;
	}
}

static bool is_known(u32 group, u64 attr)
{
	return group == KVM_DEV_HEKI_CTRL && attr < NR_ATTRS;
}

/* The only right errno, -1 if there are several. */
static int predict_errno(enum verb verb, u32 group, u64 attr, u32 flags, u64 addr)
{
	if (!is_known(group, attr))
		return ENXIO;
	if (verb == HAS)
		return 0;
	if (flags)
		return EINVAL;
	if (!has_verb[verb][attr])
		return ENXIO;
	if (attr == KVM_DEV_HEKI_RESET || attr == KVM_DEV_HEKI_RESUME)
		return addr ? EINVAL : 0;
	return -1;
}

static int throw_attr(struct life *l, enum verb verb, u32 group, u64 nr, u32 flags, u64 addr)
{
	int right = predict_errno(verb, group, nr, flags, addr);
	int ret = attr(l, verb, group, nr, flags, addr);
	u64 known = is_known(group, nr) ? nr : NR_ATTRS;

	nr_calls++;
	if (verb != HAS && ret)
		attrs[verb][known].bad++;
	else if (verb != HAS)
		attrs[verb][known].good++;
	if (right < 0 ? !is_documented_errno(verb, nr, ret) : ret != right)
		complain(ANSWERS, "%s %s gave %d, not %d", verb == SET ? "set" : "get or has",
			 attr_names[known], ret, right);
	return ret;
}

static void throw_at_device(struct life *l)
{
	u32 group = one_in(16) ? odd_value() : KVM_DEV_HEKI_CTRL;
	u64 nr = one_in(16) ? odd_value() : below(NR_ATTRS);
	enum verb verb = one_in(16) ? HAS : below(2);
	u32 flags = one_in(16) ? odd_value() : 0;

	if (throw_attr(l, verb, group, nr, flags, argument(nr)) || verb != SET)
		return;
	if (nr == KVM_DEV_HEKI_RESET)
		note_reset(l);
	if (nr == KVM_DEV_HEKI_PROFILE)
		l->profile = true;
}

/*
 * What must hold
 */

static void get_ranges(struct life *l)
{
	struct heki_ranges *head = (void *)arena;
	int ret;

	*head = (struct heki_ranges){ .nr = HEKI_MAX_RANGES };
	ret = attr(l, GET, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_RANGES, 0, (u64)head);
	if (ret)
		complain(AGREE, "no ranges: %d", ret);
	l->nr_ranges = ret ? 0 : head->nr;
	memcpy(l->ranges, head + 1, l->nr_ranges * sizeof(l->ranges[0]));
}

/* The range that lists a page, if any does. */
static const struct heki_range *range_of(struct life *l, u64 gpa)
{
	u32 i;

	for (i = 0; i < l->nr_ranges; i++) {
		if (gpa >= l->ranges[i].gpa && gpa - l->ranges[i].gpa < l->ranges[i].len)
			return &l->ranges[i];
	}
	return NULL;
}

static bool is_sealed_page(struct life *l, u64 nr)
{
	const struct heki_range *range = range_of(l, HEKI_PAGE(nr));

	return range && !(range->rights & HEKI_WRITE);
}

/* A spoilt allow-list may lack it. */
static bool is_own_text_executable(struct life *l)
{
	extern char __executable_start[], etext[];
	gva_t gva = (gva_t)__executable_start & PAGE_MASK;
	const struct heki_range *range;

	if (!has_exec)
		return true;
	get_ranges(l);
	for (; l->nr_ranges && gva < (gva_t)etext; gva += PAGE_SIZE) {
		range = range_of(l, addr_gva2gpa(l->h.vm, gva));
		if (!range || !(range->rights & HEKI_EXEC))
			return false;
	}
	return true;
}

static bool ranges_are_sound(struct life *l, bool *sealed)
{
	u64 end = 0;
	u32 i;

	*sealed = false;
	for (i = 0; i < l->nr_ranges; i++) {
		const struct heki_range *range = &l->ranges[i];

		if (range->gpa < end || !range->len || (range->gpa | range->len) & (PAGE_SIZE - 1))
			return false;
		end = range->gpa + range->len;
		*sealed |= !(range->rights & HEKI_WRITE);
	}
	return true;
}

/* Without an allow-list, whatever can be written can be run. */
static bool has_both_rights(struct life *l)
{
	u32 i;

	for (i = 0; i < l->nr_ranges; i++) {
		if ((l->ranges[i].rights & HEKI_RIGHTS) == HEKI_RIGHTS)
			return true;
	}
	return false;
}

/* The saved state in the arena; its length. */
static u64 get_state(struct life *l, struct heki_life *life)
{
	struct heki_buffer buffer = { (u64)arena, ARENA_BYTES };
	struct heki_saved *saved = (void *)arena;
	struct heki_record *first = (void *)(saved + 1);
	int ret = attr(l, GET, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_STATE, 0, (u64)&buffer);

	if (ret || saved->magic != HEKI_SAVED_MAGIC || saved->len != buffer.len ||
	    first->kind != HEKI_RECORD_LIFE) {
		complain(AGREE, "no saved state, or not one: %d", ret);
		*life = (struct heki_life){};
		return 0;
	}
	*life = *(struct heki_life *)(first + 1);
	if ((saved->nr_records == 2) != (life->state == HEKI_STATE_OPEN))
		complain(AGREE, "%u records in state %u", saved->nr_records, life->state);
	return buffer.len;
}

static void check_state(struct life *l)
{
	struct heki_query *q = heki_hva(&l->h, HEKI_ANSWER_GPA);
	u32 state = l->sealed ? HEKI_STATE_SEALED : HEKI_STATE_OPEN;
	struct heki_life life;
	bool has_sealed;
	s64 ret;

	ret = call(l, guest_hypercall, HEKI_OP_QUERY, HEKI_ANSWER_GPA, sizeof(*q), 0);
	if (l->dead)
		return;
	get_state(l, &life);
	get_ranges(l);
	if (ret || q->state != state || life.state != state || !l->sealed != !q->held)
		complain(AGREE, "QUERY %ld: state %u, %u saved, %u by the answers, held %#x",
			 (long)ret, q->state, life.state, state, q->held);
	if (!ranges_are_sound(l, &has_sealed))
		complain(AGREE, "the ranges overlap or are not in order");
	if (q->held & HEKI_PROT_EXEC && has_both_rights(l))
		complain(AGREE, "a range can be written and run");
	if (has_sealed != !!(q->held & HEKI_PROT_WRITE) || (!l->sealed && l->nr_ranges))
		complain(AGREE, "%u ranges, held %#x", l->nr_ranges, q->held);
}

/* Pages that were sealed all the time hold what they held; a PATCH may have changed the text. */
static void check_bytes(struct life *l, const bool *was_sealed, bool patched)
{
	u64 i;

	for (i = 0; i < NR_PAGES; i++) {
		if (!was_sealed[i] || !is_sealed_page(l, i) || (patched && (i == TEXT || i == POOL)))
			continue;
		if (memcmp(l->before + i * PAGE_SIZE, heki_hva(&l->h, HEKI_PAGE(i)), PAGE_SIZE))
			complain(SEALED, "page %ld has changed", (long)i);
	}
}

static void check_write(struct life *l, u64 nr)
{
	u64 gpa = HEKI_PAGE(nr) + below(PAGE_SIZE / 8) * 8;
	u64 before = heki_peek(&l->h, gpa), value = any();
	bool sealed = is_sealed_page(l, nr);
	u64 vector = call(l, guest_write, gpa, value, 0, 0);

	if (l->dead)
		return;
	if (vector != (sealed ? GP_VECTOR : 0) || heki_peek(&l->h, gpa) != (sealed ? before : value))
		complain(SEALED, "a write of page %ld, %s, gave %ld", (long)nr,
			 sealed ? "sealed" : "not sealed", (long)vector);
}

/*
 * Batches
 */

static void check_answers(struct life *l, bool sealed, bool *patched)
{
	bool clean = !sealed;
	int i;

	*patched = false;
	for (i = 0; i < BATCH_CALLS; i++) {
		const struct call *call = &batch_of(l)->call[i];

		check_call(l, i, sealed, clean);
		if (!call->ret && call->arg[0] == HEKI_OP_SEAL)
			sealed = true;
		else if (!call->ret && call->arg[0] == HEKI_OP_PATCH)
			*patched = true;
		else if (!call->ret && !l->good[i])
			clean = false;		/* it may have overwritten something */
		if (l->reset[i])
			sealed = clean = false;
	}
	l->sealed = sealed;
}

static void make_batch(struct life *l)
{
	int i;

	batch_of(l)->nr = BATCH_CALLS;
	batch_of(l)->done = 0;
	for (i = 0; i < BATCH_CALLS; i++)
		make_call(l, i);
	memset(l->asked, 0, sizeof(l->asked));
	memset(l->reset, 0, sizeof(l->reset));
	memset(l->lost, 0, sizeof(l->lost));
}

static void run_batch(struct life *l)
{
	bool was_sealed[NR_PAGES], sealed = l->sealed, patched, whole = true;
	int i;

	if (!sealed)
		put_kernel(&l->h);
	make_batch(l);
	for (i = 0; i < NR_PAGES; i++)
		was_sealed[i] = is_sealed_page(l, i);
	memcpy(l->before, heki_hva(&l->h, HEKI_PAGE(0)), sizeof(l->before));

	l->in_batch = true;
	call(l, guest_batch, 0, 0, 0, 0);
	l->in_batch = false;
	if (l->dead)
		return;
	check_answers(l, sealed, &patched);
	check_state(l);
	for (i = 0; i < BATCH_CALLS; i++)
		whole &= !l->reset[i];
	if (whole)
		check_bytes(l, was_sealed, patched);
	check_write(l, below(NR_PAGES));
	check_write(l, FRESH + below(NR_FRESH));
	for (i = below(6); i && !l->dead; i--)
		throw_at_device(l);
	if (one_in(6))
		reset(l);
}

/*
 * From one VM to the next
 */

/* The policy and the profile of a VM, before it has a vCPU. One that will restore allows all. */
static void create_vm(struct life *l, bool restores, bool profile)
{
	struct heki_policy policy = random_policy();
	struct profile good = good_profile();
	int i;

	*l = (struct life){ .profile = profile };
	l->h.device = -1;
	l->h.vm = __vm_create(VM_SHAPE_DEFAULT, 1, HEKI_TEST_PAGES);
	heki_add_memory(&l->h, VM_MEM_SRC_ANONYMOUS);
	vm_userspace_mem_region_add(l->h.vm, VM_MEM_SRC_ANONYMOUS, NEXT_GPA, NEXT_SLOT, 1, 0);
	l->h.device = kvm_create_device(l->h.vm, KVM_DEV_TYPE_HEKI);

	policy.allowed = HEKI_PROT_ALL;
	if (restores)
		throw_attr(l, SET, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_POLICY, 0, (u64)&policy);
	for (i = 0; i < 20; i++)
		throw_at_device(l);
	if (l->profile)
		throw_attr(l, SET, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_PROFILE, 0, (u64)&good);
	attr(l, GET, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_POLICY, 0, (u64)&l->policy);
	heki_add_vcpu(&l->h, 0, 0);
	nr_vms++;
}

static int set_state(struct life *l, const u8 *bytes, u64 len)
{
	struct heki_buffer buffer = { (u64)bytes, len };

	return throw_attr(l, SET, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_STATE, 0, (u64)&buffer);
}

/* Spoilt states: what is taken up all the same must be sound, and a reset ends it. */
static void restore_spoilt(struct life *l, u64 len)
{
	struct heki_life life;
	bool has_sealed;
	int i;

	for (i = 0; i < RESTORES; i++) {
		memcpy(spoilt_state, saved_state, len);
		spoil(spoilt_state, len);
		if (set_state(l, spoilt_state, one_in(8) ? below(len + 1) : len))
			continue;
		get_state(l, &life);
		get_ranges(l);
		if (!ranges_are_sound(l, &has_sealed))
			complain(SAVED, "a spoilt state made ranges that are not sound");
		reset(l);
	}
}

/* The memory, and what the host keeps. */
static void restore(struct life *l, struct life *old)
{
	struct heki_life life;
	u64 len = get_state(old, &life);
	int ret;

	memcpy(saved_state, arena, len);
	get_ranges(old);
	memcpy(heki_hva(&l->h, HEKI_TEST_GPA), heki_hva(&old->h, HEKI_TEST_GPA),
	       HEKI_TEST_PAGES * PAGE_SIZE);
	restore_spoilt(l, len);

	ret = set_state(l, saved_state, len);
	if (ret)
		complain(SAVED, "it is refused: %d", ret);
	l->sealed = !ret && life.state == HEKI_STATE_SEALED;
	if (get_state(l, &life) != len || memcmp(saved_state, arena, len))
		complain(SAVED, "it is another one");
	get_ranges(l);
	if (l->nr_ranges != old->nr_ranges ||
	    memcmp(l->ranges, old->ranges, l->nr_ranges * sizeof(l->ranges[0])))
		complain(SAVED, "it has other ranges");
}

static void live(struct life *l, u64 until)
{
	u64 i, batches = 1 + below(LIFE_BATCHES);

	heki_guest_enable_cr0(l->h.vcpu[0], X86_CR0_WP);
	heki_guest_enable_cr4(l->h.vcpu[0], X86_CR4_SMEP);
	call(l, guest_wrmsr, MSR_LSTAR, LSTAR, 0, 0);
	for (i = 0; i < batches && nr_calls < until && !l->dead; i++)
		run_batch(l);
}

static void run_calls(u64 until)
{
	struct life *lives = calloc(2, sizeof(*lives)), *l = lives, *old = NULL;

	TEST_ASSERT(lives, "No memory");

	while (nr_calls < until) {
		create_vm(l, old, old ? old->profile : !nr_vms || one_in(2));
		if (old) {
			restore(l, old);
			heki_vm_free(&old->h);
		}
		live(l, until);
		if (l->dead) {
			heki_vm_free(&l->h);
			old = NULL;
			continue;
		}
		old = l;
		l = l == lives ? lives + 1 : lives;
	}
	if (old)
		heki_vm_free(&old->h);
	free(lives);
}

/*
 * The end
 */

static void print_count(const char *verb, const char *name, const struct count *count)
{
	ksft_print_msg("%s %s: %ld succeeded, %ld refused\n", verb, name, (long)count->good,
		       (long)count->bad);
}

static void check_reach(void)
{
	int i, verb;

	for (i = 0; i <= NR_OPS; i++) {
		print_count("call", op_names[i], &ops[i]);
		if (i < NR_OPS && (!ops[i].good || !ops[i].bad))
			complain(REACHED, "%s was not reached", op_names[i]);
	}
	for (verb = SET; verb <= GET; verb++) {
		for (i = 0; i <= NR_ATTRS; i++) {
			print_count(verb == SET ? "set" : "get", attr_names[i], &attrs[verb][i]);
			if (i < NR_ATTRS && has_verb[verb][i] &&
			    (!attrs[verb][i].good || !attrs[verb][i].bad))
				complain(REACHED, "%s was not reached", attr_names[i]);
		}
	}
	ksft_print_msg("seed %ld: %ld calls, %ld VMs, %ld of which ended themselves\n", (long)seed,
		       (long)nr_calls, (long)nr_vms, (long)nr_deaths);
}

static void find_host(void)
{
	struct heki_query q;
	struct heki_vm h;

	heki_vm_create(&h, 1);
	q = heki_query(&h);
	has_exec = q.available & HEKI_PROT_EXEC;
	has_dt = q.available & HEKI_PROT_DT;
	heki_vm_free(&h);
}

static void make_buffers(void)
{
	arena = mmap(NULL, ARENA_BYTES + PAGE_SIZE, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	TEST_ASSERT(arena != MAP_FAILED && !mprotect(arena + ARENA_BYTES, PAGE_SIZE, PROT_NONE),
		    "No arena");
	memset(arena, 0, ARENA_BYTES);
	saved_state = malloc(ARENA_BYTES);
	spoilt_state = malloc(ARENA_BYTES);
	TEST_ASSERT(saved_state && spoilt_state, "No memory");
}

static void parse_options(int argc, char *argv[])
{
	int opt;

	while ((opt = getopt(argc, argv, "n:s:")) != -1) {
		if (opt == 'n')
			max_calls = atoi_positive("number of calls", optarg);
		else if (opt == 's')
			seed = atoi_positive("seed", optarg);
		else
			TEST_FAIL("usage: %s [-n CALLS] [-s SEED]", argv[0]);
	}
	random_state = seed;
}

int main(int argc, char *argv[])
{
	long before, grown;
	int i;

	parse_options(argc, argv);
	ksft_print_header();
	heki_require();
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SMEP));
	ksft_set_plan(NR_CHECKS);
	ksft_print_msg("seed %ld, %ld calls\n", (long)seed, (long)max_calls);

	make_buffers();
	find_host();

	/* What is allocated once is there after a tenth of them. */
	run_calls(max_calls / 10);
	before = heki_kernel_kb();
	run_calls(max_calls);
	grown = heki_kernel_kb() - before;
	if (grown > GROWTH_MAX_KB && !heki_has_kmemleak())
		complain(MEMORY, "%ld KiB more", grown);

	check_reach();
	for (i = 0; i < NR_CHECKS; i++)
		ksft_test_result(!failures[i], "%s\n", checks[i]);
	ksft_finished();
}
