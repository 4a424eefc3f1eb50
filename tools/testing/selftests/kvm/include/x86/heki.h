/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the Heki tests (x86/heki_*_test.c) share.
 *
 * The test is written on the host side. A vCPU only does what heki_call() asks
 * for, one small guest_*() function at a time, and stops again. Each test VM has
 * two memslots besides the library's own:
 *
 *   HEKI_TEST_GPA	pages to seal and to attack; the guest maps them at the
 *			same virtual address, single ones also as HEKI_ALIAS()
 *   HEKI_REQUEST_GPA	requests, written by the host; the guest does not map them
 *
 * Guest functions return the vector of the exception they met, 0 for none.
 */
#ifndef SELFTEST_KVM_HEKI_H
#define SELFTEST_KVM_HEKI_H

#include <dirent.h>
#include <fcntl.h>
#include <linux/heki.h>
#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"

#define HEKI_MAX_VCPUS		8
#define HEKI_NR_ARGS		4

#define HEKI_TEST_SLOT		10
#define HEKI_TEST_GPA		0x40000000ull
#define HEKI_TEST_PAGES		4096
#define HEKI_PAGE(nr)		(HEKI_TEST_GPA + (u64)(nr) * PAGE_SIZE)
#define HEKI_ALIAS(nr)		(0x60000000ull + (u64)(nr) * PAGE_SIZE)
/* No memslot is here. */
#define HEKI_HOLE_GPA		0x80000000ull

#define HEKI_REQUEST_SLOT	11
#define HEKI_REQUEST_GPA	0x30000000ull
#define HEKI_REQUEST_PAGES	64
#define HEKI_ANSWER_GPA		(HEKI_REQUEST_GPA + (HEKI_REQUEST_PAGES - 1) * PAGE_SIZE)

#define HEKI_CALM		0x5ca1ab1e5ca1ab1eull	/* what a page holds before an attack */
#define HEKI_ATTACK		0xbadc0debadc0de00ull	/* what an attack writes */

/* How a VM is not like the others. */
#define HEKI_VM_OFF		(1 << 0)	/* not opted in */
#define HEKI_VM_NESTED		(1 << 1)	/* its vCPUs have VMX or SVM */

/* Seconds; emulated hosts are slow. */
#define HEKI_TIMEOUT		300
#define HEKI_TEST(suite, test)	TEST_F_TIMEOUT(suite, test, HEKI_TIMEOUT)

struct heki_call {
	u64 (*fn)(u64 *arg);
	u64 arg[HEKI_NR_ARGS];
	u64 ret;
};

struct heki_vm {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu[HEKI_MAX_VCPUS];
	struct heki_seal *request;
	int device;
};

/* One per vCPU; the guest's copy is the one in use. */
static struct heki_call heki_calls[HEKI_MAX_VCPUS];

/*
 * In the guest
 */

static inline void heki_guest_main(u64 index)
{
	struct heki_call *call = &heki_calls[index];

	for (;;) {
		call->ret = call->fn(call->arg);
		GUEST_SYNC(index);
	}
}

static inline u64 guest_hypercall(u64 *arg)
{
	return kvm_hypercall(KVM_HC_HEKI, arg[0], arg[1], arg[2], arg[3]);
}

/* arg[0]: address */
static inline u64 guest_read(u64 *arg)
{
	return kvm_asm_safe("testb $0, (%[gva])", [gva]"r"(arg[0]));
}

/* arg[0]: address, arg[1]: value */
static inline u64 guest_write(u64 *arg)
{
	return kvm_asm_safe("movq %[val], (%[gva])", [gva]"r"(arg[0]), [val]"r"(arg[1]));
}

/* The same through KVM's emulator. */
static inline u64 guest_fep_write(u64 *arg)
{
	return kvm_asm_safe_fep("movq %[val], (%[gva])", [gva]"r"(arg[0]), [val]"r"(arg[1]));
}

/*
 * Jumps to arg[0]. heki_put_code() has put code there that clears R9 and returns
 * through R11, where the fixup of a fault leads as well.
 */
static inline u64 guest_exec(u64 *arg)
{
	u64 vector;

	asm volatile("mov $" __stringify(KVM_EXCEPTION_MAGIC) ", %%r9\n\t"
		     "mov %[gva], %%r10\n\t"
		     "lea 1f(%%rip), %%r11\n\t"
		     "jmp *%%r10\n\t"
		     "1: mov %%r9, %[vector]\n\t"
		     : [vector] "=r"(vector)
		     : [gva] "r"(arg[0])
		     : KVM_ASM_SAFE_CLOBBERS, "memory");
	return vector;
}

static inline u64 guest_get_cr0(u64 *arg)
{
	return get_cr0();
}

static inline u64 guest_get_cr4(u64 *arg)
{
	return get_cr4();
}

static inline u64 guest_set_cr0(u64 *arg)
{
	return kvm_asm_safe("mov %[val], %%cr0", [val]"r"(arg[0]));
}

static inline u64 guest_set_cr4(u64 *arg)
{
	return kvm_asm_safe("mov %[val], %%cr4", [val]"r"(arg[0]));
}

/* Does an instruction exist that CR4.FSGSBASE allows? */
static inline u64 guest_rdfsbase(u64 *arg)
{
	return kvm_asm_safe("rdfsbase %%r10");
}

/* arg[0]: MSR; HEKI_CALM if there is none */
static inline u64 guest_rdmsr(u64 *arg)
{
	u64 value;

	return rdmsr_safe(arg[0], &value) ? HEKI_CALM : value;
}

/* arg[0]: MSR, arg[1]: value */
static inline u64 guest_wrmsr(u64 *arg)
{
	return wrmsr_safe(arg[0], arg[1]);
}

/* arg[0]: base, arg[1]: limit */
static inline u64 guest_lgdt(u64 *arg)
{
	struct desc_ptr dt = { .address = arg[0], .size = arg[1] };

	return kvm_asm_safe("lgdt %[dt]", [dt]"m"(dt));
}

/* arg[0]: base, arg[1]: limit */
static inline u64 guest_lidt(u64 *arg)
{
	struct desc_ptr dt = { .address = arg[0], .size = arg[1] };

	return kvm_asm_safe("lidt %[dt]", [dt]"m"(dt));
}

/* What the reboot of Linux falls back to. */
static inline u64 guest_triple_fault(u64 *arg)
{
	struct desc_ptr none = {};

	asm volatile("lidt %0; ud2" : : "m"(none));
	return 0;
}

/* arg[0]: selector */
static inline u64 guest_lldt(u64 *arg)
{
	return kvm_asm_safe("lldt %w[ldt]", [ldt]"r"((u32)arg[0]));
}

/* arg[0]: selector */
static inline u64 guest_ltr(u64 *arg)
{
	return kvm_asm_safe("ltr %w[tr]", [tr]"r"((u32)arg[0]));
}

/*
 * On the host: a VM and its vCPUs
 */

static inline struct heki_call *heki_call_of(struct kvm_vcpu *vcpu)
{
	return addr_gva2hva(vcpu->vm, (gva_t)&heki_calls[vcpu->id]);
}

/* Gives the vCPU something to do when it next runs. */
static inline void heki_prepare_call(struct kvm_vcpu *vcpu, u64 (*fn)(u64 *), const u64 *arg)
{
	struct heki_call *call = heki_call_of(vcpu);

	call->fn = fn;
	memcpy(call->arg, arg, sizeof(call->arg));
}

/* What the vCPU did is done: its result. */
static inline u64 heki_finish_call(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	switch (get_ucall(vcpu, &uc)) {
	case UCALL_SYNC:
		return heki_call_of(vcpu)->ret;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
	default:
		TEST_FAIL("Unexpected exit of vCPU %u: %s", vcpu->id,
			  exit_reason_str(vcpu->run->exit_reason));
	}
}

static inline u64 __heki_call(struct kvm_vcpu *vcpu, u64 (*fn)(u64 *), const u64 *arg)
{
	heki_prepare_call(vcpu, fn, arg);
	vcpu_run(vcpu);
	return heki_finish_call(vcpu);
}

#define heki_call(vcpu, fn, args...)	\
	__heki_call(vcpu, fn, (const u64[HEKI_NR_ARGS]){ args })

static inline void *heki_hva(struct heki_vm *h, u64 gpa)
{
	return addr_gpa2hva(h->vm, gpa);
}

static inline u64 heki_peek(struct heki_vm *h, u64 gpa)
{
	return READ_ONCE(*(u64 *)heki_hva(h, gpa));
}

static inline void heki_poke(struct heki_vm *h, u64 gpa, u64 value)
{
	WRITE_ONCE(*(u64 *)heki_hva(h, gpa), value);
}

/* Without an allow-list for its own guests, a hypervisor gets none for itself. */
static inline void heki_hide_nested(struct kvm_vcpu *vcpu)
{
	if (vcpu_cpuid_has(vcpu, X86_FEATURE_VMX))
		vcpu_clear_cpuid_feature(vcpu, X86_FEATURE_VMX);
	if (vcpu_cpuid_has(vcpu, X86_FEATURE_SVM))
		vcpu_clear_cpuid_feature(vcpu, X86_FEATURE_SVM);
}

static inline void heki_add_vcpu(struct heki_vm *h, u32 id, u32 flags)
{
	h->vcpu[id] = vm_vcpu_add(h->vm, id, heki_guest_main);
	vcpu_args_set(h->vcpu[id], 1, (u64)id);
	if (!(flags & HEKI_VM_NESTED))
		heki_hide_nested(h->vcpu[id]);
}

static inline void heki_add_memory(struct heki_vm *h, enum vm_mem_backing_src_type src)
{
	vm_userspace_mem_region_add(h->vm, src, HEKI_TEST_GPA, HEKI_TEST_SLOT,
				    HEKI_TEST_PAGES, 0);
	virt_map_level(h->vm, HEKI_TEST_GPA, HEKI_TEST_GPA, HEKI_TEST_PAGES * PAGE_SIZE,
		       PG_LEVEL_2M);
	vm_userspace_mem_region_add(h->vm, VM_MEM_SRC_ANONYMOUS, HEKI_REQUEST_GPA,
				    HEKI_REQUEST_SLOT, HEKI_REQUEST_PAGES, 0);
	h->request = heki_hva(h, HEKI_REQUEST_GPA);
}

static inline void __heki_vm_create(struct heki_vm *h, u32 nr_vcpus, u32 flags,
				    enum vm_mem_backing_src_type src)
{
	u32 id;

	TEST_ASSERT(nr_vcpus <= HEKI_MAX_VCPUS, "Too many vCPUs for this header");
	*h = (struct heki_vm){ .device = -1 };
	h->vm = __vm_create(VM_SHAPE_DEFAULT, nr_vcpus, HEKI_TEST_PAGES);
	heki_add_memory(h, src);
	if (!(flags & HEKI_VM_OFF))
		h->device = kvm_create_device(h->vm, KVM_DEV_TYPE_HEKI);
	for (id = 0; id < nr_vcpus; id++)
		heki_add_vcpu(h, id, flags);
}

static inline void heki_vm_create(struct heki_vm *h, u32 nr_vcpus)
{
	__heki_vm_create(h, nr_vcpus, 0, VM_MEM_SRC_ANONYMOUS);
}

static inline void heki_vm_free(struct heki_vm *h)
{
	if (h->device >= 0)
		close(h->device);
	kvm_vm_free(h->vm);
}

/* Skips the whole test where no VM can opt in. */
static inline void heki_require(void)
{
	struct kvm_vm *vm = vm_create_barebones();
	int fd;

	__TEST_REQUIRE(!__kvm_test_create_device(vm, KVM_DEV_TYPE_HEKI),
		       "KVM has no Heki (CONFIG_KVM_HEKI)");
	fd = __kvm_create_device(vm, KVM_DEV_TYPE_HEKI);
	__TEST_REQUIRE(fd >= 0 || errno != EOPNOTSUPP, "this host cannot hold a VM (no TDP MMU)");
	TEST_ASSERT(fd >= 0, KVM_IOCTL_ERROR(KVM_CREATE_DEVICE, fd));
	close(fd);
	kvm_vm_free(vm);
}

/* Reads the first byte of a module parameter; 0 without such a parameter. */
static inline char heki_param(const char *path)
{
	int fd = open(path, O_RDONLY);
	char c = 0;

	if (fd < 0)
		return 0;
	if (read(fd, &c, 1) != 1)
		c = 0;
	close(fd);
	return c;
}

static inline bool heki_set_param(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY);
	bool ok;

	if (fd < 0)
		return false;
	ok = write(fd, value, strlen(value)) == (ssize_t)strlen(value);
	close(fd);
	return ok;
}

/* How much KVM shows of all VMs there are; -1 without debugfs. */
static inline int heki_count_vms(void)
{
	DIR *dir = opendir("/sys/kernel/debug/kvm");
	int nr = 0;

	if (!dir)
		return -1;
	while (readdir(dir))
		nr++;
	closedir(dir);
	return nr;
}

/* Does the host opt every VM in (kvm.heki=all)? */
static inline bool heki_is_for_all(void)
{
	return heki_param("/sys/module/kvm/parameters/heki") == 'a';
}

#define HEKI_FORCE_EMULATION	"/sys/module/kvm/parameters/force_emulation_prefix"

/* Runs the tests with the forced emulation prefix turned on, and leaves it as it was. */
static inline int heki_run_with_forced_emulation(int (*run)(int argc, char **argv), int argc,
						 char *argv[])
{
	bool begun = heki_param(HEKI_FORCE_EMULATION) == '0' &&
		     heki_set_param(HEKI_FORCE_EMULATION, "1");
	int ret = run(argc, argv);

	if (begun)
		heki_set_param(HEKI_FORCE_EMULATION, "0");
	return ret;
}

/*
 * On the host: requests
 */

static inline s64 heki_hypercall(struct kvm_vcpu *vcpu, u64 op, u64 gpa, u64 len, u64 flags)
{
	return heki_call(vcpu, guest_hypercall, op, gpa, len, flags);
}

static inline struct heki_query heki_query(struct heki_vm *h)
{
	struct heki_query *answer = heki_hva(h, HEKI_ANSWER_GPA);
	s64 ret;

	memset(answer, 0xff, sizeof(*answer));
	ret = heki_hypercall(h->vcpu[0], HEKI_OP_QUERY, HEKI_ANSWER_GPA, sizeof(*answer), 0);
	TEST_ASSERT(!ret, "QUERY failed: %ld", ret);
	return *answer;
}

static inline struct heki_range *heki_ranges(struct heki_seal *req)
{
	return (struct heki_range *)(req + 1);
}

static inline struct heki_pin *heki_pins(struct heki_seal *req)
{
	return (struct heki_pin *)(heki_ranges(req) + req->nr_ranges);
}

static inline struct heki_area *heki_areas(struct heki_seal *req)
{
	return (struct heki_area *)(heki_pins(req) + req->nr_pins);
}

static inline u64 heki_request_len(struct heki_seal *req)
{
	return (void *)(heki_areas(req) + req->nr_areas) - (void *)req;
}

static inline struct heki_seal *heki_begin_request(struct heki_vm *h, u32 flags)
{
	*h->request = (struct heki_seal){ .version = HEKI_ABI_VERSION, .flags = flags };
	return h->request;
}

/* All ranges come before the first pin. */
static inline void heki_add_range(struct heki_seal *req, u64 gpa, u64 len, u32 rights, u32 kind)
{
	TEST_ASSERT(!req->nr_pins, "A range after a pin");
	heki_ranges(req)[req->nr_ranges++] = (struct heki_range){
		.gpa = gpa,
		.len = len,
		.rights = rights,
		.kind = kind,
	};
}

/* Seals page @nr of the test memory against writes. */
static inline void heki_add_page(struct heki_seal *req, u64 nr)
{
	heki_add_range(req, HEKI_PAGE(nr), PAGE_SIZE, 0, HEKI_KIND_RODATA);
}

static inline void heki_add_pin(struct heki_seal *req, u32 reg, u64 mask)
{
	if (mask)
		heki_pins(req)[req->nr_pins++] = (struct heki_pin){ .reg = reg, .mask = mask };
}

static inline void heki_add_part(struct heki_seal *req, u32 reg, u32 index, u64 mask)
{
	heki_pins(req)[req->nr_pins++] = (struct heki_pin){
		.reg = reg,
		.index = index,
		.mask = mask,
	};
}

/* All of a table's register. */
static inline void heki_add_tables(struct heki_seal *req, u32 reg)
{
	heki_add_part(req, reg, 0, reg == HEKI_REG_LDTR ? 0xffff : ~0ull);
	if (reg != HEKI_REG_LDTR)
		heki_add_part(req, reg, 1, reg == HEKI_REG_TR ? ~0u : 0xffff);
	if (reg == HEKI_REG_TR)
		heki_add_part(req, reg, 2, 0xffff);
}

#define HEKI_DESC_LDT	2
#define HEKI_DESC_TSS	9	/* available */

/* A system descriptor in the GDT that all vCPUs begin with. */
static inline void heki_put_descriptor(struct heki_vm *h, u16 selector, u8 type, u64 base,
				       u16 limit)
{
	u64 *desc = addr_gva2hva(h->vm, h->vm->arch.gdt + selector);

	desc[0] = limit | (base & 0xffffff) << 16 | (0x80ull | type) << 40 |
		  (base >> 24 & 0xff) << 56;
	desc[1] = base >> 32;
}

static inline void heki_add_msr(struct heki_seal *req, u32 index, u64 mask)
{
	heki_add_part(req, HEKI_REG_MSR, index, mask);
}

/* The bits of a register that can be pinned; once sealed, those that are. */
static inline u64 heki_query_pin(struct heki_vm *h, struct kvm_vcpu *vcpu, u32 reg, u32 index)
{
	struct heki_pin *pin = heki_hva(h, HEKI_ANSWER_GPA);
	s64 ret;

	*pin = (struct heki_pin){ .reg = reg, .index = index, .mask = ~0ull };
	ret = heki_hypercall(vcpu, HEKI_OP_QUERY_PIN, HEKI_ANSWER_GPA, sizeof(*pin), 0);
	TEST_ASSERT(!ret && pin->reg == reg && pin->index == index, "QUERY_PIN failed: %ld", ret);
	return pin->mask;
}

/* Lists the code of the test itself as executable; neighbours merge in the host. */
static inline void heki_add_text(struct heki_vm *h, struct heki_seal *req)
{
	extern char __executable_start[], etext[];
	gva_t gva = (gva_t)__executable_start & PAGE_MASK;

	for (; gva < (gva_t)etext; gva += PAGE_SIZE)
		heki_add_range(req, addr_gva2gpa(h->vm, gva), PAGE_SIZE, HEKI_EXEC,
			       HEKI_KIND_TEXT);
}

/* Sends the request; what the hypercall returned. */
static inline s64 heki_send(struct heki_vm *h, struct kvm_vcpu *vcpu)
{
	return heki_hypercall(vcpu, HEKI_OP_SEAL, HEKI_REQUEST_GPA,
			      heki_request_len(h->request), 0);
}

static inline void heki_seal(struct heki_vm *h)
{
	s64 ret = heki_send(h, h->vcpu[0]);

	TEST_ASSERT(!ret, "SEAL failed: %ld", ret);
}

/* The simplest seal: page @nr, writes only. */
static inline void heki_seal_page(struct heki_vm *h, u64 nr)
{
	heki_add_page(heki_begin_request(h, 0), nr);
	heki_seal(h);
}

static inline bool heki_has_exec(struct heki_vm *h)
{
	return heki_query(h).available & HEKI_PROT_EXEC;
}

/* Sets bits in the guest's own CR4, as a kernel does at boot. */
static inline void heki_guest_enable_cr4(struct kvm_vcpu *vcpu, u64 bits)
{
	u64 cr4 = heki_call(vcpu, guest_get_cr4);
	u64 vector = heki_call(vcpu, guest_set_cr4, cr4 | bits);

	TEST_ASSERT(!vector, "vCPU %u cannot set CR4 bits %#lx: %s", vcpu->id, bits,
		    ex_str(vector));
}

static inline void heki_guest_enable_cr0(struct kvm_vcpu *vcpu, u64 bits)
{
	u64 cr0 = heki_call(vcpu, guest_get_cr0);
	u64 vector = heki_call(vcpu, guest_set_cr0, cr0 | bits);

	TEST_ASSERT(!vector, "vCPU %u cannot set CR0 bits %#lx: %s", vcpu->id, bits,
		    ex_str(vector));
}

/* Begins a request with an allow-list that lists the test's own code. */
static inline struct heki_seal *heki_begin_exec_request(struct heki_vm *h)
{
	struct heki_seal *req = heki_begin_request(h, HEKI_SEAL_EXEC);

	heki_guest_enable_cr4(h->vcpu[0], X86_CR4_SMEP);
	heki_add_text(h, req);
	return req;
}

/* Ends it with the pin that an allow-list needs, and sends it. */
static inline void heki_seal_exec(struct heki_vm *h, struct heki_seal *req)
{
	heki_add_pin(req, HEKI_REG_CR4, X86_CR4_SMEP);
	heki_seal(h);
}

/*
 * On the host: code and attacks
 */

/* Puts what guest_exec() wants to find at @gpa. */
/*
 * Without paging
 */

struct heki_registers {
	struct kvm_sregs sregs;
	struct kvm_regs regs;
};

static inline void heki_get_registers(struct kvm_vcpu *vcpu, struct heki_registers *all)
{
	vcpu_run_complete_io(vcpu);
	vcpu_sregs_get(vcpu, &all->sregs);
	vcpu_regs_get(vcpu, &all->regs);
}

static inline void heki_set_registers(struct kvm_vcpu *vcpu, struct heki_registers *all)
{
	vcpu_sregs_set(vcpu, &all->sregs);
	vcpu_regs_set(vcpu, &all->regs);
}

/*
 * Runs the vCPU at @rip, as of 32 bits, with @rax and no handler of faults. Returns the exit.
 * The registers of before are for the caller to set again.
 */
static inline u32 heki_run_unpaged(struct kvm_vcpu *vcpu, struct heki_registers unpaged, u64 rip,
				   u64 rax)
{
	unpaged.sregs.cr0 &= ~X86_CR0_PG;
	unpaged.sregs.efer &= ~(EFER_LME | EFER_LMA);
	unpaged.sregs.cs.l = 0;
	unpaged.sregs.cs.db = 1;
	unpaged.sregs.idt.limit = 0;
	unpaged.regs.rip = rip;
	unpaged.regs.rax = rax;
	heki_set_registers(vcpu, &unpaged);
	vcpu_run(vcpu);
	return vcpu->run->exit_reason;
}

static inline void heki_put_code(struct heki_vm *h, u64 gpa)
{
	static const u8 code[] = {
		0x45, 0x31, 0xc9,	/* xor %r9d, %r9d */
		0x41, 0xff, 0xe3,	/* jmp *%r11 */
	};

	memcpy(heki_hva(h, gpa), code, sizeof(code));
}

/* Maps page @nr once more, by an entry of its own. */
static inline gva_t heki_map_alias(struct heki_vm *h, u64 nr)
{
	virt_pg_map(h->vm, HEKI_ALIAS(nr), HEKI_PAGE(nr));
	return HEKI_ALIAS(nr);
}

/* Lets user mode reach the 4 KiB page at @gva too. */
static inline void heki_map_user(struct heki_vm *h, gva_t gva)
{
	struct kvm_mmu *mmu = &h->vm->mmu;
	gpa_t table = mmu->pgd;
	int level;

	for (level = mmu->pgtable_levels; level >= PG_LEVEL_4K; level--) {
		u64 *pte = heki_hva(h, table);

		pte += (gva >> PG_LEVEL_SHIFT(level)) & 0x1ff;
		*pte |= PTE_USER_MASK(mmu);
		table = PTE_GET_PA(*pte);
	}
}

#define HEKI_USER_PORT		0x80

/* Puts what heki_run_user() wants to find at @gpa: a write to a port. */
static inline void heki_put_user_code(struct heki_vm *h, u64 gpa)
{
	static const u8 code[] = {
		0x66, 0xba, HEKI_USER_PORT, 0x00,	/* mov $HEKI_USER_PORT, %dx */
		0xee,					/* out %al, (%dx) */
	};

	memcpy(heki_hva(h, gpa), code, sizeof(code));
}

static inline void heki_set_user_segment(struct kvm_segment *seg, u16 selector)
{
	seg->selector = selector | 3;
	seg->dpl = 3;
}

/*
 * Runs the code at @gva at CPL 3, with @rflags set too. True if it got to its port. A
 * fault has no stack to go to and shuts the vCPU down, which is then good for nothing else.
 */
static inline bool __heki_run_user(struct kvm_vcpu *vcpu, gva_t gva, u64 rflags)
{
	struct kvm_sregs sregs, kernel_sregs;
	struct kvm_regs regs, kernel_regs;
	bool ran;

	/* The library completes the port access of the last ucall here. */
	vcpu_run_complete_io(vcpu);
	vcpu_sregs_get(vcpu, &kernel_sregs);
	vcpu_regs_get(vcpu, &kernel_regs);

	sregs = kernel_sregs;
	heki_set_user_segment(&sregs.cs, 0x28);
	sregs.ss = sregs.ds;
	heki_set_user_segment(&sregs.ss, 0x30);
	vcpu_sregs_set(vcpu, &sregs);
	regs = kernel_regs;
	regs.rip = gva;
	regs.rflags |= X86_EFLAGS_IOPL | BIT(13) | rflags;
	vcpu_regs_set(vcpu, &regs);

	vcpu_run(vcpu);
	ran = vcpu->run->exit_reason == KVM_EXIT_IO && vcpu->run->io.port == HEKI_USER_PORT;
	if (ran) {
		vcpu_run_complete_io(vcpu);
		vcpu_sregs_set(vcpu, &kernel_sregs);
		vcpu_regs_set(vcpu, &kernel_regs);
	}
	return ran;
}

static inline bool heki_run_user(struct kvm_vcpu *vcpu, gva_t gva)
{
	return __heki_run_user(vcpu, gva, 0);
}

/* Fills page @nr with what heki_page_is_calm() looks for. */
static inline void heki_calm_page(struct heki_vm *h, u64 nr)
{
	int i;

	for (i = 0; i < PAGE_SIZE; i += sizeof(u64))
		heki_poke(h, HEKI_PAGE(nr) + i, HEKI_CALM);
}

static inline bool heki_page_is_calm(struct heki_vm *h, u64 nr)
{
	int i;

	for (i = 0; i < PAGE_SIZE; i += sizeof(u64)) {
		if (heki_peek(h, HEKI_PAGE(nr) + i) != HEKI_CALM)
			return false;
	}
	return true;
}

/* A write of page @nr is denied, counted once, and changes nothing. */
static inline bool heki_is_sealed(struct heki_vm *h, struct kvm_vcpu *vcpu, u64 nr)
{
	u64 denied = vcpu_get_stat(vcpu, heki_denied_write);

	heki_calm_page(h, nr);
	return heki_call(vcpu, guest_write, HEKI_PAGE(nr), HEKI_ATTACK) == GP_VECTOR &&
	       heki_page_is_calm(h, nr) &&
	       vcpu_get_stat(vcpu, heki_denied_write) == denied + 1;
}

/* A write of page @nr goes through and is not counted. */
static inline bool heki_is_writable(struct heki_vm *h, struct kvm_vcpu *vcpu, u64 nr)
{
	u64 denied = vcpu_get_stat(vcpu, heki_denied_write);

	heki_calm_page(h, nr);
	return !heki_call(vcpu, guest_write, HEKI_PAGE(nr), HEKI_ATTACK) &&
	       heki_peek(h, HEKI_PAGE(nr)) == HEKI_ATTACK &&
	       vcpu_get_stat(vcpu, heki_denied_write) == denied;
}

/* A run of the code at @gva is denied and counted once. */
static inline bool heki_cannot_run(struct kvm_vcpu *vcpu, gva_t gva)
{
	u64 denied = vcpu_get_stat(vcpu, heki_denied_exec);

	return heki_call(vcpu, guest_exec, gva) == GP_VECTOR &&
	       vcpu_get_stat(vcpu, heki_denied_exec) == denied + 1;
}

/*
 * On the host: what a VM leaves behind
 */

/* A line of /proc/meminfo. */
static inline long heki_meminfo_kb(const char *name)
{
	FILE *f = fopen("/proc/meminfo", "r");
	size_t len = strlen(name);
	char line[128];
	long kb = -1;

	while (f && kb < 0 && fgets(line, sizeof(line), f)) {
		if (!strncmp(line, name, len) && sscanf(line + len, ": %ld kB", &kb) != 1)
			kb = -1;
	}
	if (f)
		fclose(f);
	return kb;
}

/* Memory that a VM gave back is free only after an RCU grace period. */
static inline void heki_wait_for_rcu(void)
{
	int i;

	for (i = 0; i < 8; i++)
		syscall(__NR_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0);
}

/* What the kernel has for itself in small pieces and in large ones. */
static inline long heki_kernel_kb(void)
{
	heki_wait_for_rcu();
	return heki_meminfo_kb("SUnreclaim") + heki_meminfo_kb("VmallocUsed");
}

/* A host that finds each lost object itself, and keeps freed memory for a while. */
static inline bool heki_has_kmemleak(void)
{
	return !access("/sys/kernel/debug/kmemleak", F_OK);
}

#endif /* SELFTEST_KVM_HEKI_H */
